#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A network that is cut."""
import time

import fault
import tap
from fault import NOTICED_S, Requests, Tally, rounds, transfer, typical
from hosts import DECODE, PREFILL, two_hosts


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
