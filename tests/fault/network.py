#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A network that is cut: two hosts as network namespaces, joined by a cable that can be pulled.

A namespace lives as long as the process that holds it, and the cable as long as a namespace, so
that nothing is left behind, whatever happens."""
import contextlib
import subprocess
import time

import fault
import tap
from fault import HEARTBEAT_MS, NOTICED_S, Requests, Tally, Worker, rounds, transfer, typical

PREFILL, DECODE = "192.0.2.1", "192.0.2.2"


class Host:
    def __init__(self, stack):
        # unshare becomes cat, which ends with the pipe.
        holder = subprocess.Popen(
            ("unshare", "--net", "cat"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        stack.callback(self._end, holder)
        self.pid = holder.pid
        with contextlib.suppress(BrokenPipeError):
            holder.stdin.write(b"up\n")
            holder.stdin.flush()
        if holder.stdout.readline() != b"up\n":
            reason = holder.stderr.read().decode().strip()
            raise tap.Skip(f"network namespaces are not permitted here: {reason}")
        self.prefix = ("nsenter", f"--net=/proc/{self.pid}/ns/net")

    @staticmethod
    def _end(holder):
        holder.kill()
        holder.communicate()

    def run(self, *command):
        return tap.command(*self.prefix, *command)

    def worker(self, address, *options):
        mode = fault.Mode("tcp between hosts", "mapped", ("transports=tcp",))
        return Worker(
            mode,
            f"listen={address}:0",
            "unauthenticated_network=on",
            f"heartbeat_ms={HEARTBEAT_MS}",
            "connect_timeout_ms=5000",
            *options,
            prefix=self.prefix,
        )


@contextlib.contextmanager
def two_hosts():
    fault.need_programs("ip", "unshare", "nsenter")
    with contextlib.ExitStack() as stack:
        prefill, decode = Host(stack), Host(stack)
        try:
            prefill.run("ip", "link", "add", "name", "cable", "type", "veth",
                        "peer", "name", "cable", "netns", decode.pid)
        except AssertionError as error:
            raise tap.Skip(f"no veth here: {error}") from error
        for host, address in ((prefill, PREFILL), (decode, DECODE)):
            host.run("ip", "address", "add", f"{address}/24", "dev", "cable")
            host.run("ip", "link", "set", "cable", "up")
        stack.enter_context(fault.workers())
        yield prefill, decode


@tap.case
def cable_is_pulled_in_mid_layer():
    with two_hosts() as (prefill, decode):
        tally = Tally("cable pulled", "tcp between hosts")
        sender, receiver = prefill.worker(PREFILL), decode.worker(DECODE)
        for _ in range(rounds(5)):
            typical_s = transfer(sender, receiver, tally)
            requests = Requests(sender, receiver).open().ready(fault.LAYERS - 1)
            fault.moment(typical_s)
            prefill.run("ip", "link", "set", "cable", "down")
            pulled = time.monotonic()
            tally.tried += 1
            requests.settle()
            for side in (receiver, sender):
                for answer in side.each("wait", requests.slots, 10000).values():
                    tally.outcome(answer, "KVX_E_PEER_LOST").expect("KVX_E_PEER_LOST")
                    tally.took(answer.at - pulled, NOTICED_S)
            requests.verify(tally)
            requests.close()
            prefill.run("ip", "link", "set", "cable", "up")
        transfer(sender, receiver, tally)
        sender.quit()
        receiver.expect_no_leak()
        receiver.quit()
        tally.report()


@tap.case
def one_connection_is_cut_in_mid_layer():
    """Its units go over the other. Without the control connection all ends, and begins anew."""
    fault.need_programs("ss")
    with two_hosts() as (prefill, decode):
        tally = Tally("one connection cut", "tcp between hosts")
        sender, receiver = prefill.worker(PREFILL), decode.worker(DECODE)
        typical_s = typical(sender, receiver, tally)
        for number in range(rounds(9)):
            transfer(sender, receiver, tally)
            ports = local_ports(prefill)
            requests = Requests(sender, receiver).open().ready()
            fault.moment(typical_s / 2)
            cut(prefill, ports[number % len(ports)])
            tally.tried += 1
            requests.settle()
            for side in (receiver, sender):
                for answer in side.each("wait", requests.slots, 10000).values():
                    tally.outcome(answer, "KVX_E_PEER_LOST")
            requests.verify(tally)
            requests.close()
        transfer(sender, receiver, tally)
        assert sender.stats()["rails_lost"], "no data connection was cut"
        sender.quit()
        receiver.expect_no_leak()
        receiver.quit()
        tally.report()


def local_ports(host):
    """Of the sender's connections, in the order in which they were made, as a rule."""
    lines = host.run("ss", "-Htn", "state", "established").splitlines()
    return sorted(int(line.split()[2].rpartition(":")[2]) for line in lines)


def cut(host, port):
    if not host.run("ss", "-HKtn", "sport", "=", f":{port}").strip():
        raise tap.Skip("this kernel does not cut connections (INET_DIAG_DESTROY)")


tap.main()
