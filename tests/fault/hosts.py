# SPDX-License-Identifier: Apache-2.0
"""Two hosts as network namespaces, joined by a cable that can be pulled.

A namespace lives as long as the process that holds it, and the cable as long as a namespace, so
that nothing is left behind, whatever happens."""
import contextlib
import subprocess

import fault
import tap
from fault import HEARTBEAT_MS, Worker

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
