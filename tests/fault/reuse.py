#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Requests that end at random moments under load, and blocks that are reused at once."""
import random
import time

import fault
import tap
from fault import LAYERS, Requests, Tally, Worker, attempts, new_key, rounds, transfer, typical

SMALL = {"block_bytes": 16392}  # so that many rounds fit


@tap.cases_for(fault.MODES)
def revoke_at_random_moments(mode):
    """Of the requests under way two are revoked and their blocks filled; the others finish."""
    fault.need_ipv6(mode)
    with fault.workers():
        tally = Tally("revoke", mode)
        receiver, sender = Worker(mode, **SMALL), Worker(mode, **SMALL)
        typical_s = typical(sender, receiver, tally)
        for _ in attempts(52, tally):
            requests = Requests(sender, receiver).open().ready()
            random.shuffle(requests.slots)
            reused = {}
            for slot in requests.slots[:2]:
                fault.moment(typical_s / 2)
                reused[slot] = new_key()
                receiver.call(f"revoke {slot}", f"fill {slot} {reused[slot]}").expect()
                tally.tried += 1
            requests.settle()
            finish_others(requests, requests.slots[2:], tally)
            for slot, key in reused.items():
                tally.outcome(sender.call(f"wait {slot} 10000"), "KVX_E_REVOKED")
                tally.verify(receiver.call(f"check {slot} {key}"))
            requests.close()
        expect_usable(sender, receiver, tally)


@tap.cases_for(fault.MODES)
def cancel_at_random_moments(mode):
    """The source is reused at once; no layer that is reported whole has a byte of that."""
    fault.need_ipv6(mode)
    with fault.workers():
        tally = Tally("cancel", mode)
        receiver, sender = Worker(mode, **SMALL), Worker(mode, **SMALL)
        typical_s = typical(sender, receiver, tally)
        for _ in attempts(52, tally):
            requests = Requests(sender, receiver).open().ready()
            requests.settle()
            random.shuffle(requests.slots)
            for slot in requests.slots[:2]:
                fault.moment(typical_s / 2)
                sender.call(f"cancel {slot}", f"fill {slot} {new_key()}").expect()
                tally.tried += 1
            finish_others(requests, requests.slots[2:], tally)
            for slot in requests.slots[:2]:
                tally.outcome(receiver.call(f"wait {slot} 10000"), "KVX_E_CANCELLED")
            requests.verify(tally, requests.slots[:2])
            requests.close()
        expect_usable(sender, receiver, tally)


def finish_others(requests, slots, tally):
    for answer in requests.receiver.each("wait", slots, 20000).values():
        tally.outcome(answer)
    requests.verify(tally, slots)


def expect_usable(sender, receiver, tally):
    assert tally.failed, "nothing ended early"
    transfer(sender, receiver, tally)
    receiver.quit()
    sender.expect_no_leak()
    sender.quit()
    tally.report()


@tap.cases_for(fault.MODES)
def lease_ends_while_a_slow_sender_streams(mode):
    fault.need_ipv6(mode)
    lease_s = 1.0
    with fault.workers():
        tally = Tally("lease ends", mode)
        receiver, sender = Worker(mode, **SMALL), Worker(mode, **SMALL)
        for _ in range(rounds(3)):
            begin = time.monotonic()
            requests = Requests(sender, receiver).open(lease_ms=int(lease_s * 1000))
            opened_s = time.monotonic() - begin
            for layer in range(LAYERS // 2):
                for slot in requests.slots:
                    sender.call(f"ready {slot} {layer} 1").expect()
                time.sleep(lease_s / LAYERS)
            tally.tried += len(requests.slots)
            for side in (receiver, sender):
                for answer in side.each("wait", requests.slots, 10000).values():
                    tally.outcome(answer, "KVX_E_LEASE")
                    tally.took(answer.at - begin - opened_s - lease_s, 0.1)
            requests.verify(tally)
            expect_closed_to_late_layers(requests, tally)
            requests.close()
        expect_usable(sender, receiver, tally)


def expect_closed_to_late_layers(requests, tally):
    keys = {slot: new_key() for slot in requests.slots}
    for slot, key in keys.items():
        requests.receiver.call(f"fill {slot} {key}").expect()
        requests.sender.call(f"ready {slot} 0 {LAYERS}")
    time.sleep(0.1)
    for slot, key in keys.items():
        tally.verify(requests.receiver.call(f"check {slot} {key}"))


tap.main()
