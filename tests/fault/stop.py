#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Processes that are stopped in the middle of requests, and go on later."""
import time

import fault
import tap
from fault import LAYERS, NOTICED_S, Requests, Tally, Worker, new_key, rounds, transfer

OPTIONS = (f"heartbeat_ms={fault.HEARTBEAT_MS}",)
PROMPT_S = 0.1  # needs nothing of the stopped process
QUIET_S = 1.1  # over which no late byte may land


@tap.cases_for(fault.MODES)
def sender_is_stopped_in_mid_layer(mode):
    """Two requests are revoked while it is stopped, two waited for; then all blocks are reused."""
    fault.need_ipv6(mode)
    with fault.workers():
        tally = Tally("sender stopped", mode)
        receiver, sender = Worker(mode, *OPTIONS), Worker(mode, *OPTIONS)
        for _ in range(rounds(2)):
            typical_s = transfer(sender, receiver, tally)
            requests = Requests(sender, receiver).open().ready(LAYERS - 1)
            fault.moment(typical_s)
            stopped = sender.stop()
            tally.tried += 1
            reused = reuse_revoked(receiver, requests.slots[:2], tally)
            reused |= reuse_lost(receiver, requests, requests.slots[2:], tally, stopped)
            sender.resume()
            requests.settle()
            time.sleep(QUIET_S)
            for slot, key in reused.items():
                tally.verify(receiver.call(f"check {slot} {key}"))
            ends = ("KVX_E_PEER_LOST", "KVX_E_REVOKED")
            for answer in sender.each("wait", requests.slots, 10000).values():
                tally.outcome(answer, *ends)
            requests.close()
        transfer(sender, receiver, tally)
        sender.quit()
        receiver.expect_no_leak()
        receiver.quit()
        tally.report()


def reuse_revoked(receiver, slots, tally):
    """Fills their blocks as soon as the revoke returns. The new keys by slot."""
    keys = {slot: new_key() for slot in slots}
    for slot, key in keys.items():
        begin = time.monotonic()
        receiver.send(f"revoke {slot}", f"fill {slot} {key}")
        revoked, filled = receiver.answers(2)
        filled.expect()
        tally.took(revoked.expect().at - begin, PROMPT_S)
    return keys


def reuse_lost(receiver, requests, slots, tally, stopped):
    """Waits until the sender is found lost, then fills. The new keys by slot."""
    for answer in receiver.each("wait", slots, 10000).values():
        answer.expect("KVX_E_PEER_LOST")
        tally.took(answer.at - stopped, NOTICED_S)
    requests.verify(tally, slots)
    keys = {slot: new_key() for slot in slots}
    for slot, key in keys.items():
        receiver.call(f"fill {slot} {key}").expect()
    return keys


@tap.cases_for(fault.MODES)
def receiver_is_stopped_in_mid_layer(mode):
    """Two requests are closed while it is stopped, two waited for; the source is reused then."""
    fault.need_ipv6(mode)
    with fault.workers():
        tally = Tally("receiver stopped", mode)
        receiver, sender = Worker(mode, *OPTIONS), Worker(mode, *OPTIONS)
        for _ in range(rounds(2)):
            typical_s = transfer(sender, receiver, tally)
            requests = Requests(sender, receiver).open().ready()
            fault.moment(typical_s)
            stopped = receiver.stop()
            tally.tried += 1
            requests.settle()
            close_and_scribble(sender, requests.slots[:2], tally)
            for answer in sender.each("wait", requests.slots[2:], 10000).values():
                answer.expect("ok", "KVX_E_PEER_LOST")
                tally.took(answer.at - stopped, NOTICED_S)
            close_and_scribble(sender, requests.slots[2:], tally)
            receiver.resume()
            for answer in receiver.each("wait", requests.slots, 10000).values():
                tally.outcome(answer, "KVX_E_PEER_LOST", "KVX_E_CANCELLED")
            requests.verify(tally)
            receiver.each("close", requests.slots)
        transfer(sender, receiver, tally)
        receiver.quit()
        sender.expect_no_leak()
        sender.quit()
        tally.report()


def close_and_scribble(sender, slots, tally):
    begin = time.monotonic()
    for slot in slots:
        sender.send(f"close {slot}", f"fill {slot} {new_key()}")
    for _ in slots:
        closed, filled = sender.answers(2)
        filled.expect()
        tally.took(closed.expect().at - begin, PROMPT_S)


tap.main()
