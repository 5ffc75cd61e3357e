#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Processes that die in the middle of requests, and that come back."""
import fault
import tap
from fault import Requests, Tally, Worker, attempts, rounds, transfer

AT_ONCE_S = 0.2  # the socket closes
PATIENT = "heartbeat_ms=30000"  # so that no heartbeat tells


@tap.cases_for(fault.MODES)
def sender_is_killed_in_mid_layer(mode):
    fault.need_ipv6(mode)
    with fault.workers():
        tally = Tally("sender killed", mode)
        receiver = Worker(mode, PATIENT)
        sender = Worker(mode, PATIENT)
        for _ in attempts(10, tally):
            typical_s = transfer(sender, receiver, tally)
            requests = Requests(sender, receiver).open().ready()
            fault.moment(typical_s)
            at = sender.kill()
            tally.tried += 1
            for answer in receiver.each("wait", requests.slots, 10000).values():
                tally.outcome(answer, "KVX_E_PEER_LOST")
                if not answer.ok:
                    tally.took(answer.at - at, AT_ONCE_S)
            requests.verify(tally)
            receiver.each("close", requests.slots)
            sender.reap()
            sender = Worker(mode, PATIENT)
        transfer(sender, receiver, tally)
        assert tally.failed, "no request was under way"
        sender.quit()
        receiver.expect_no_leak()
        receiver.quit()
        tally.report()


@tap.cases_for(fault.MODES)
def receiver_is_killed_in_mid_layer(mode):
    fault.need_ipv6(mode)
    with fault.workers():
        tally = Tally("receiver killed", mode)
        sender = Worker(mode, PATIENT)
        receiver = Worker(mode, PATIENT)
        for _ in attempts(10, tally):
            typical_s = transfer(sender, receiver, tally)
            requests = Requests(sender, receiver).open().ready()
            fault.moment(typical_s)
            at = receiver.kill()
            tally.tried += 1
            requests.settle()
            for answer in sender.each("wait", requests.slots, 10000).values():
                tally.outcome(answer, "KVX_E_PEER_LOST")
                if not answer.ok:
                    tally.took(answer.at - at, AT_ONCE_S)
            sender.each("close", requests.slots)
            receiver.reap()
            expect_dead(sender, requests)
            receiver = Worker(mode, PATIENT)
        transfer(sender, receiver, tally)
        assert tally.failed, "no request was under way"
        receiver.quit()
        sender.expect_no_leak()
        sender.quit()
        tally.report()


def expect_dead(sender, requests):
    """A ticket of a process that is gone, perhaps presented before the engine has noticed."""
    requests.present(0)
    answer = sender.call("wait 0 10000").expect("KVX_E_UNREACHABLE", "KVX_E_PEER_LOST")
    assert answer.text
    sender.call("close 0").expect()


@tap.cases_for(fault.MODES)
def restarted_receiver_is_another_peer(mode):
    """Under the same name and, for tcp, at the same port."""
    fault.need_ipv6(mode)
    with fault.workers():
        tally = Tally("receiver restarted", mode)
        sender = Worker(mode)
        receiver = Worker(mode, "name=decode")
        options = ["name=decode"]
        if "tcp:" in receiver.address:
            options.append(f"listen={receiver.address.removeprefix('tcp:')}")
        for _ in range(rounds(5)):
            old = Requests(sender, receiver).open().ready()
            old.settle()
            receiver.kill()
            receiver.process.wait()
            before, receiver = receiver, Worker(mode, *options)
            tally.tried += 1
            # What the sender was in the middle of does not keep it from the new one.
            for slot in old.slots[:2]:
                sender.call(f"close {slot}").expect()
            new = Requests(sender, receiver, old.slots[:2]).open()
            new.finish(tally)
            for answer in sender.each("wait", old.slots[2:], 10000).values():
                tally.outcome(answer, "KVX_E_PEER_LOST")
            sender.each("close", old.slots[2:])
            expect_restarted(sender, old, before, receiver, mode)
        receiver.quit()
        sender.expect_no_leak()
        sender.quit()
        tally.report()


def expect_restarted(sender, requests, before, after, mode):
    """The dead one's ticket is refused in words that name both incarnations. Over shm the address
    went with the process, so the successor is known only while the sender is connected to it."""
    expected = ["KVX_E_PEER_RESTARTED"]
    if mode in (fault.SHM, fault.SHM_PLAIN):
        expected.append("KVX_E_UNREACHABLE")
    requests.present(0)
    answer = sender.call("wait 0 10000").expect(*expected)
    named = before.incarnation in answer.text and after.incarnation in answer.text
    assert named or answer.result == "KVX_E_UNREACHABLE", answer.text
    sender.call("close 0").expect()


tap.main()
