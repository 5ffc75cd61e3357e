# SPDX-License-Identifier: Apache-2.0
"""A prefill and a decode worker with a bystander, which live through one fault after another."""
import contextlib
import pathlib
import random
import subprocess
import sys
import time

import fault
import hosts
from load import LEASE_LONG_MS, SLOTS, Batch, Member, transfer

RELAY_HOST = "127.0.0.2"
BLOCK_BYTES = (2056, 8200, 8200, 16392, 40968)
# Of the receiver's: the sender's requests, one for a fault's own purposes, the bystander's.
SLOTS_SENDER, SLOT_SPARE, SLOTS_BYSTANDER = range(11), 11, range(12, SLOTS)
FEEL_MOST_S = 0.2


class Relay:
    """See relay.py."""

    def __init__(self):
        program = pathlib.Path(__file__).with_name("relay.py")
        seed = random.randrange(1 << 32)
        self.process = subprocess.Popen(
            [sys.executable, "-B", str(program), RELAY_HOST, str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )

    def call(self, *words):
        """How many connections were struck."""
        self.process.stdin.write((" ".join(map(str, words)) + "\n").encode())
        answer = self.process.stdout.readline()
        assert answer, f"the relay has ended: {self.process.wait(5)}"
        return int(answer)

    def end(self):
        self.process.kill()
        self.process.communicate()


class Cluster:
    """transport: between sender and receiver; the bystander sends over another one."""

    def __init__(self, transport, options):
        self.transport = transport
        self.memory = random.choice(("mapped", "mapped", "plain"))
        self.block_bytes = random.choice(BLOCK_BYTES)
        self.options = options
        self.relay, self.prefill, self.decode = None, None, None
        self.typical_s = 0.0

    def open(self, stack):
        if self.transport == "tcp":
            self.relay = Relay()
            stack.callback(self.relay.end)
        if self.transport == "cable":
            self.prefill, self.decode = stack.enter_context(hosts.two_hosts())
        else:
            stack.enter_context(fault.workers())
        self.receiver = self.new_receiver("decode")
        self.sender = self.new_sender("prefill")
        self.bystander = self._member(
            "bystander", "tcp" if self.transport == "shm" else "shm", self.decode, "127.0.0.1"
        )
        return self

    def _member(self, name, transports, host, address, *options):
        mode = fault.Mode(self.transport, self.memory, (f"transports={transports}",))
        network = (f"listen={address}:0",) if "tcp" in transports else ()
        if host and network:
            network += ("unauthenticated_network=on",)
        return Member(
            mode, f"name={name}", *network, *self.options, *options,
            block_bytes=self.block_bytes, prefix=host.prefix if host else (),
        )

    def new_sender(self, name, *options):
        transports = "shm" if self.transport == "shm" else "tcp"
        address = hosts.PREFILL if self.prefill else "127.0.0.1"
        return self._member(name, transports, self.prefill, address, *options)

    def new_receiver(self, name, *options):
        address = hosts.DECODE if self.decode else "127.0.0.1"
        if self.relay:
            options += (f"advertise={RELAY_HOST}",)
        receiver = self._member(name, "shm,tcp", self.decode, address, *options)
        if self.relay:
            self.relay.call("front", receiver.tcp_port())
        return receiver

    def restart_sender(self):
        self.sender = self.sender.again()

    def restart_receiver(self):
        """Under the same name, and at the same port."""
        address = hosts.DECODE if self.decode else "127.0.0.1"
        self.receiver = self.receiver.again(f"listen={address}:{self.receiver.tcp_port()}")

    def retire_receiver(self, receiver):
        receiver.expect_clean()
        receiver.quit()
        if self.relay:
            self.relay.call("drop", receiver.tcp_port())

    def strike(self, verb, which, receiver=None):
        """Something happens to the sender's connections. How many were there?"""
        return self.relay.call(verb, (receiver or self.receiver).tcp_port(), which)

    # Time.

    def feel(self, tally):
        """How long requests take when nothing disturbs them."""
        took_s = [transfer(self.sender, self.receiver, tally, SLOTS_SENDER) for _ in range(2)]
        self.typical_s = min(FEEL_MOST_S, *took_s)

    def moment(self):
        time.sleep(random.uniform(0, self.typical_s))

    # Requests.

    def batch(self, tally, sender=None, receiver=None, **rest):
        slots = random.sample(SLOTS_SENDER, random.randrange(2, len(SLOTS_SENDER) + 1))
        return Batch(sender or self.sender, receiver or self.receiver, tally, slots, **rest)

    def bystanders(self, tally, lease_ms=LEASE_LONG_MS):
        """Some pushed and some pulled, so that once they are accepted nothing has to connect."""
        batch = Batch(self.bystander, self.receiver, tally, SLOTS_BYSTANDER, lease_ms)
        batch.pulled = set(SLOTS_BYSTANDER[::2])
        return batch

    @contextlib.contextmanager
    def bystander_goes_on(self, tally):
        """Its requests, opened before the fault, are complete whatever happens meanwhile."""
        batch = self.bystanders(tally).open().accepted().ready().told()
        yield
        batch.conclude()
        # And those that begin now.
        self.bystanders(tally).open().ready().conclude()

    # The end.

    def finish(self, tally):
        """Who has survived serves a stranger, and holds nothing of the dead."""
        members = (self.sender, self.receiver, self.bystander)
        stranger, host = self.new_sender("stranger"), self.new_receiver("host")
        transfer(stranger, self.receiver, tally)
        transfer(self.sender, host, tally)
        transfer(self.sender, self.receiver, tally)
        transfer(self.bystander, self.receiver, tally, SLOTS_BYSTANDER)
        for member in (*members, stranger, host):
            member.check_scribbles(tally)
        stranger.quit()
        host.quit()
        for member in members:
            member.expect_clean()
        for member in members:
            member.quit()
