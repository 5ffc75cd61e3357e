#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Four processes feed each grant, and one of them dies."""
import random

import fault
import tap
from fault import LAYERS, Tally, Worker, attempts, new_key

SENDERS = 4
AT_ONCE_S = 0.2 + fault.SLACK_S  # the socket closes: no heartbeat is waited for


def prefill(mode, number):
    return Worker(mode, f"name=prefill-{number}")


class Together:
    """Requests that all senders feed together, one in each slot."""

    def __init__(self, senders, receiver):
        self.senders, self.receiver = senders, receiver
        self.slots = list(range(fault.SLOTS))
        self.keys = {slot: new_key() for slot in self.slots}

    def open(self, present=SENDERS):
        for slot in self.slots:
            ticket = self.receiver.call(f"grant_many {slot} 60000 {SENDERS}").expect().text
            for sender in self.senders[:present]:
                self.feed(sender, slot, ticket)
        if present == SENDERS:
            for slot in self.slots:
                while self.receiver.call(f"target {slot}").text == "0":
                    pass
        return self

    def feed(self, sender, slot, ticket):
        sender.call(f"stream {slot} {self.keys[slot]} {ticket}").expect()

    def ready(self):
        for sender in self.senders:
            sender.send(*(f"ready {slot} 0 {LAYERS}" for slot in self.slots))

    def settle(self, *dead):
        for sender in self.senders:
            if sender not in dead:
                for answer in sender.answers(len(self.slots)):
                    answer.expect()

    def verify(self, tally):
        for slot in self.slots:
            tally.verify(self.receiver.call(f"whole {slot} {self.keys[slot]}"))

    def close(self, *dead):
        for worker in [self.receiver, *self.senders]:
            if worker not in dead:
                worker.each("close", self.slots)

    def finish(self, tally):
        self.ready()
        self.settle()
        for worker in [self.receiver, *self.senders]:
            for answer in worker.each("wait", self.slots, 20000).values():
                answer.expect()
        self.verify(tally)
        self.close()


class Pulled(Together):
    """The same, but all senders offer, and the receiver pulls."""

    def feed(self, sender, slot, ticket):
        offer = sender.call(f"offer {slot} 60000").expect().text
        sender.call(f"fill {slot} {self.keys[slot]}").expect()
        self.receiver.call(f"pull {slot} {offer}").expect()


def expect_ends(together, tally, victim, name, at):
    """All waits end at once, with the name of who died; but a sender may have done its part."""
    for answer in together.receiver.each("wait", together.slots, 10000).values():
        tally.outcome(answer, "KVX_E_PEER_LOST")
        assert answer.ok or name in answer.text, answer.text
        assert answer.ok or answer.at - at < AT_ONCE_S, f"{answer.at - at} s"
    for sender in together.senders:
        if sender is victim:
            continue
        for answer in sender.each("wait", together.slots, 10000).values():
            answer.expect("ok", "KVX_E_PEER_LOST")
            assert answer.ok or name in answer.text, answer.text


def kill_one_of_four(mode, how, tally, full):
    fault.need_ipv6(mode)
    with fault.workers():
        receiver = Worker(mode)
        senders = [prefill(mode, number) for number in range(SENDERS)]
        for _ in attempts(full, tally):
            how(senders, receiver).open().finish(tally)
            together = how(senders, receiver).open()
            number = random.randrange(SENDERS)
            victim = senders[number]
            together.ready()
            fault.moment(0.005)
            at = victim.kill()
            tally.tried += 1
            together.settle(victim)
            expect_ends(together, tally, victim, f"prefill-{number}", at)
            together.verify(tally)
            together.close(victim)
            victim.reap()
            senders[number] = prefill(mode, number)
        how(senders, receiver).open().finish(tally)
        assert tally.failed, "no request was under way"
        for sender in senders:
            sender.quit()
        receiver.expect_no_leak()
        receiver.quit()
        tally.report()


@tap.cases_for(fault.MODES)
def one_of_four_senders_is_killed_in_mid_layer(mode):
    kill_one_of_four(mode, Together, Tally("one of four senders killed", mode), 8)


@tap.cases_for(fault.MODES)
def one_of_four_pulled_senders_is_killed_in_mid_layer(mode):
    kill_one_of_four(mode, Pulled, Tally("one of four pulled senders killed", mode), 5)


@tap.cases_for(fault.MODES)
def one_of_three_senders_is_killed_before_the_fourth_has_come(mode):
    fault.need_ipv6(mode)
    with fault.workers():
        tally = Tally("one of three senders killed", mode)
        receiver = Worker(mode)
        senders = [prefill(mode, number) for number in range(SENDERS)]
        Together(senders, receiver).open().finish(tally)
        together = Together(senders, receiver).open(present=SENDERS - 1)
        fault.moment(0.1)
        at = senders[1].kill()
        tally.tried += 1
        together.senders = senders[: SENDERS - 1]
        expect_ends(together, tally, senders[1], "prefill-1", at)
        assert tally.failed["KVX_E_PEER_LOST"] == len(together.slots), tally.failed
        together.close(senders[1])
        senders[1].reap()
        senders[1] = prefill(mode, 1)
        Together(senders, receiver).open().finish(tally)
        for sender in senders:
            sender.quit()
        receiver.quit()
        tally.report()


tap.main()
