# SPDX-License-Identifier: Apache-2.0
"""Workers of chaos, the requests between them, and what became of these."""
import collections
import random
import time

import fault
from fault import LAYERS, STALL_S, new_key

SLOTS = 16
PLANES = 2
BLOCKS = 4
LEASE_MS = 2500
LEASE_LONG_MS = 60000
WAIT_MS = 15000  # no lease, heartbeat or connection takes so long: a wait that does has no end
CLEAN_S = 5.0
ATTEMPTS_MAX = 10

# How a request may end when its peer dies, hangs or cannot be reached.
LOST = ("KVX_E_PEER_LOST",)
BROKEN = LOST + (
    "KVX_E_PEER_RESTARTED",
    "KVX_E_UNREACHABLE",
    "KVX_E_TRANSPORT",
    "KVX_E_CANCELLED",
    "KVX_E_REVOKED",
    "KVX_E_REFUSED",
    "KVX_E_LEASE",
)


class Member(fault.Worker):
    """A worker that remembers how it was made, and what its free blocks must hold."""

    def __init__(self, mode, *options, **rest):
        self.recipe = mode, options, rest
        self.scribbles = {}  # keys by slot, since nobody may touch its blocks any more
        super().__init__(mode, *options, blocks=BLOCKS, slots=SLOTS, **rest)
        self.call("warm 0" + " " * 4096)  # the line's buffer, before memory gets short
        self.start_state = self.state()

    def again(self, *options):
        """Another process of the same name; the dead one is buried."""
        mode, old_options, rest = self.recipe
        self.reap()
        return Member(mode, *dict.fromkeys((*old_options, *options)), **rest)

    @property
    def slot_bytes(self):
        return LAYERS * PLANES * BLOCKS * self.recipe[2]["block_bytes"]

    def state(self):
        return dict(word.split("=") for word in self.call("state 0").expect().text.split())

    def batch(self, lines):
        """Carried out with nothing between them. One answer each."""
        lines = list(lines)
        self.send(*lines)
        return self.answers(len(lines))

    def scribble(self, slots, before="close"):
        """Writes over the blocks of slots as soon as the contract gives them back."""
        lines = []
        for slot in slots:
            self.scribbles[slot] = new_key()
            lines += [f"{before} {slot}", f"fill {slot} {self.scribbles[slot]}"]
        for answer in self.batch(lines):
            answer.expect()

    def check_scribbles(self, tally, slots=None):
        """What has landed since then is wrong."""
        slots = [slot for slot in (slots or list(self.scribbles)) if slot in self.scribbles]
        for answer in self.batch(f"check {slot} {self.scribbles[slot]}" for slot in slots):
            tally.count_bytes(answer, self.slot_bytes)

    def expect_clean(self):
        """With nothing connected it holds what it held when it began. A peer may still come to
        give an offer back that it could not reach before: it is forgotten as well."""
        deadline = time.monotonic() + CLEAN_S + STALL_S
        self.call("forget 0").expect()
        while (now := self.state()) != self.start_state and time.monotonic() < deadline:
            time.sleep(0.02)
            self.call("forget 0").expect()
        leaked = {
            name: (self.start_state[name], now[name])
            for name in now
            if now[name] != self.start_state[name]
        }
        assert not leaked, f"worker {self.pid} leaks (before, now): {leaked}"


class Tally:
    """What became of the requests under one fault, over one transport."""

    def __init__(self, name, transport):
        self.name, self.transport = name, transport
        self.tried = self.requests = self.finished = self.bytes_verified = self.bytes_wrong = 0
        self.longest_s = 0.0
        self.failed = collections.Counter()

    def outcome(self, answer, begin, allowed):
        """Of one end of a request."""
        self.longest_s = max(self.longest_s, answer.at - begin)
        assert answer.result != "KVX_E_TIMEDOUT", f"a wait went beyond all deadlines: {answer.text}"
        answer.expect("ok", *allowed)
        if not answer.ok:
            self.failed[answer.result] += 1
            assert answer.text, f"{answer.result} without an explanation"
        return answer.ok

    def count_bytes(self, answer, slot_bytes):
        layers, wrong = answer.expect().numbers()
        self.bytes_verified += layers * slot_bytes // LAYERS
        self.bytes_wrong += wrong
        assert not wrong, f"{wrong} bytes of {layers} layers are wrong"


class Batch:
    """Requests from a sender to a receiver, one in each slot; some are pushed, some pulled."""

    def __init__(self, sender, receiver, tally, slots, lease_ms=LEASE_MS):
        self.sender, self.receiver, self.tally = sender, receiver, tally
        self.slots, self.lease_ms = list(slots), lease_ms
        self.keys = {slot: new_key() for slot in self.slots}
        self.pulled = {slot for slot in self.slots if random.random() < 0.3}
        self.tickets, self.granted, self.streamed = {}, [], []
        self.revoked = []
        self.ended = {}  # slots that finished; by whether the sender says so
        self.unread, self.held = 0, []
        self.begin = time.monotonic()

    # Opening. Errors that are allowed leave a request that never was; both ends must be willing.

    def open(self, errors=()):
        """Asks for all; who is accepted shows later."""
        self.grant(errors)
        # A worker that has no memory to write a ticket gives none.
        slots = [slot for slot in self.granted if self.tickets[slot]]
        self.push([slot for slot in slots if slot not in self.pulled], errors)
        self.pull([slot for slot in slots if slot in self.pulled], errors)
        self.begin = time.monotonic()
        return self

    def grant(self, errors=()):
        tally = self.tally
        tally.requests += len(self.slots)
        self.receiver.check_scribbles(tally, self.slots)
        grants = self.receiver.batch(
            f"grant {slot} {self.keys[slot]} {self.lease_ms}" for slot in self.slots
        )
        for slot, answer in zip(self.slots, grants):
            self.receiver.scribbles.pop(slot, None)  # another order of blocks, granted or not
            if tally.outcome(answer, answer.at, errors):
                self.granted.append(slot)
                self.tickets[slot] = answer.text

    def _streams(self, slots, answers, errors):
        """Slots of those that were opened."""
        good = []
        for slot, answer in zip(slots, answers):
            self.sender.scribbles.pop(slot, None)
            if self.tally.outcome(answer, answer.at, errors):
                good.append(slot)
        self.streamed += good
        return good

    def push(self, slots, errors=()):
        self._streams(slots, self.sender.batch(
            f"stream {slot} {self.keys[slot]} {self.tickets[slot]}" for slot in slots
        ), errors)

    def pull(self, slots, errors):
        offers = self.sender.batch(
            f"offer {slot} {self.keys[slot]} {self.lease_ms}" for slot in slots
        )
        tickets = {slot: answer.text for slot, answer in zip(slots, offers)}
        good = self._streams(slots, offers, errors)
        self.sender.batch(f"fill {slot} {self.keys[slot]}" for slot in good)
        good = [slot for slot in good if tickets[slot]]
        for answer in self.receiver.batch(f"pull {slot} {tickets[slot]}" for slot in good):
            self.tally.outcome(answer, answer.at, errors)

    def accepted(self, errors=()):
        """Waits until the receiver knows all senders, or that some are lost."""
        deadline = time.monotonic() + fault.ANSWER_S
        while "0" in (a.text for a in self.receiver.batch(f"target {s}" for s in self.granted)):
            answers = self.receiver.batch(f"wait {slot} 0" for slot in self.granted)
            for answer in answers:
                answer.expect("ok", "KVX_E_TIMEDOUT", *errors)
            if any(answer.result in errors for answer in answers):
                break
            assert time.monotonic() < deadline, "not accepted"
            time.sleep(0.0005)
        return self

    # Moving.

    def ready(self, whole=False):
        """All layers, in a few ranges and any order; some of them only when it is settled, so that
        what strikes meanwhile strikes something. Does not wait for the answers."""
        lines = []
        for slot in self.streamed:
            cuts = sorted({0, LAYERS, *random.choices(range(LAYERS), k=random.randrange(1, 4))})
            ranges = list(zip(cuts, cuts[1:]))
            random.shuffle(ranges)
            lines += [f"ready {slot} {first} {end - first}" for first, end in ranges]
        random.shuffle(lines)
        now = len(lines) if whole else random.randrange(len(lines) // 3, len(lines) + 1)
        self.sender.send(*lines[:now])
        self.unread, self.held = now, lines[now:]
        return self

    def told(self):
        """What was said is heard; the sender may be told other things now."""
        for answer in self.sender.answers(self.unread):
            answer.expect()
        self.unread = 0
        return self

    def settle(self):
        """The rest is ready too."""
        self.told()
        for answer in self.sender.batch(
            line for line in self.held if int(line.split()[1]) in self.streamed
        ):
            answer.expect()
        self.held = []
        return self

    # Ends.

    def conclude(self, allowed=(), dead=None):
        """Waits at both ends, verifies what is whole, and writes over all blocks at once."""
        if dead is not self.sender:
            self.settle()
        sides = [side for side in (self.sender, self.receiver) if side is not dead]
        random.shuffle(sides)
        for side in sides:
            if side is self.receiver:
                self.wait(side, self.granted, allowed)
                self.verify(self.granted)
                side.scribble(self.granted)
            else:
                self.wait_revoked(allowed)
                self.wait(side, self.streamed, allowed)
                side.scribble(self.streamed)
        if dead is self.receiver:  # then it is the sender who tells
            self.tally.finished += len(self.ended[True])
        if self.revoked:
            self.receiver.batch(f"close {slot}" for slot in self.revoked)

    def revoke_some(self):
        """And write over their blocks, while bytes for them may be anywhere."""
        self.revoked = random.sample(self.granted, len(self.granted) // 2)
        self.receiver.scribble(self.revoked, before="revoke")
        self.granted = [slot for slot in self.granted if slot not in self.revoked]

    def wait_revoked(self, allowed):
        slots = [slot for slot in self.revoked if slot in self.streamed]
        self.wait(self.sender, slots, (*allowed, "KVX_E_REVOKED", "KVX_E_REFUSED"))
        self.sender.scribble(slots)
        self.streamed = [slot for slot in self.streamed if slot not in slots]

    def wait(self, side, slots, allowed):
        slots = list(slots)
        answers = side.batch(f"wait {slot} {WAIT_MS}" for slot in slots)
        self.ended[side is self.sender] = {
            slot
            for slot, answer in zip(slots, answers)
            if self.tally.outcome(answer, self.begin, allowed)
        }
        if side is self.receiver:
            self.tally.finished += len(self.ended[False])

    def verify(self, slots):
        slots = list(slots)
        for answer in self.receiver.batch(f"whole {slot} {self.keys[slot]}" for slot in slots):
            self.tally.count_bytes(answer, self.receiver.slot_bytes)


def transfer_at_last(sender, receiver, tally):
    """With one whose heartbeats are so quick that a busy machine may pass for a dead peer."""
    for _ in range(ATTEMPTS_MAX):
        batch = Batch(sender, receiver, tally, range(4)).open().ready()
        batch.conclude(BROKEN)
        if len(batch.ended[False]) == len(batch.slots):
            return
    raise AssertionError(f"none of {ATTEMPTS_MAX} attempts came through")


def transfer(sender, receiver, tally, slots=range(4)):
    """Requests that nothing disturbs. Returns the seconds until the bytes were there."""
    batch = Batch(sender, receiver, tally, slots, LEASE_LONG_MS).open().accepted()
    begin = time.monotonic()
    batch.ready(whole=True)
    end = max(answer.at for answer in receiver.batch(f"wait {slot} {WAIT_MS}" for slot in slots))
    batch.conclude()
    return end - begin
