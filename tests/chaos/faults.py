# SPDX-License-Identifier: Apache-2.0
"""The faults. Each is tried on a cluster once in a while: it opens requests, strikes at a random
moment, expects how they may end, and leaves a cluster that works."""
import collections
import random
import resource
import time

import limits
from cluster import SLOT_SPARE
from load import BROKEN, LEASE_LONG_MS, LEASE_MS, LOST, Batch, transfer, transfer_at_last

QUICK = "heartbeat_ms=100"  # whose silence is noticed soon
QUICK_LOST_S = (0.25, 0.5)  # longer than two of those
BRIEF_S = 0.3  # far shorter than two heartbeats of all others, which are 1 s
LONG_LEASE = {"lease_ms": LEASE_LONG_MS}
SHORT = BROKEN + ("KVX_E_MEMORY", "KVX_E_SYSTEM")  # of something that a process needs
TEN_YEARS_S = 10 * 365 * 86400

Fault = collections.namedtuple("Fault", "name transports try_once")
FAULTS = []


def over(*transports):
    def mark(function):
        FAULTS.append(Fault(function.__name__.replace("_", " "), transports, function))
        return function

    return mark


anywhere = over("shm", "tcp", "cable")


@anywhere
def no_fault(cluster, tally):
    with cluster.bystander_goes_on(tally):
        cluster.batch(tally, **LONG_LEASE).open().ready().conclude()


def perhaps(what):
    if random.random() < 0.5:
        what()


# Processes that die.


def under_way(cluster, tally):
    """Requests that have been accepted, or that are about to be."""
    if random.random() < 0.6:
        return cluster.batch(tally).open().accepted().ready()
    return cluster.batch(tally, lease_ms=400).open().ready()


@anywhere
def sender_killed(cluster, tally):
    with cluster.bystander_goes_on(tally):
        batch = under_way(cluster, tally)
        cluster.moment()
        dead = cluster.sender
        dead.kill()
        batch.conclude(BROKEN, dead)
        cluster.restart_sender()


@anywhere
def receiver_killed(cluster, tally):
    """The bystander's requests end too. An old ticket gets nothing from the next process."""
    away = cluster.bystanders(tally, LEASE_MS).open().ready()
    batch = under_way(cluster, tally)
    cluster.moment()
    dead = cluster.receiver
    dead.kill()
    away.conclude(BROKEN, dead)
    batch.conclude(BROKEN, dead)
    cluster.restart_receiver()
    old = [slot for slot in batch.streamed if slot not in batch.pulled]
    for slot in old[:1]:
        cluster.sender.call(f"stream {slot} {batch.keys[slot]} {batch.tickets[slot]}").expect()
        answer = cluster.sender.call(f"wait {slot} 10000")
        tally.outcome(answer, batch.begin, ("KVX_E_PEER_RESTARTED", "KVX_E_UNREACHABLE") + LOST)
        assert not answer.ok, "a dead process's ticket was served"
        cluster.sender.scribble([slot])


# Processes that stand still.


@anywhere
def sender_stopped_briefly(cluster, tally):
    with cluster.bystander_goes_on(tally):
        batch = cluster.batch(tally, **LONG_LEASE).open().ready()
        cluster.moment()
        cluster.sender.stop()
        time.sleep(random.uniform(0, BRIEF_S))
        perhaps(batch.revoke_some)
        cluster.sender.resume()
        batch.conclude()


@anywhere
def receiver_stopped_briefly(cluster, tally):
    with cluster.bystander_goes_on(tally):
        batch = cluster.batch(tally, **LONG_LEASE).open().ready()
        cluster.moment()
        cluster.receiver.stop()
        time.sleep(random.uniform(0, BRIEF_S))
        cluster.receiver.resume()
        batch.conclude()


@anywhere
def slow_receiver(cluster, tally):
    """Stopped again and again, for longer than it runs."""
    with cluster.bystander_goes_on(tally):
        batch = cluster.batch(tally, **LONG_LEASE).open().ready()
        for _ in range(random.randrange(5, 15)):
            cluster.receiver.stop()
            time.sleep(random.uniform(0.001, 0.02))
            cluster.receiver.resume()
            time.sleep(random.uniform(0.0, 0.003))
        batch.conclude()


@anywhere
def sender_stopped_for_long(cluster, tally):
    """Meanwhile some of its requests are revoked, and all blocks are reused."""
    with cluster.bystander_goes_on(tally):
        slow = cluster.new_sender("slow", QUICK)
        transfer_at_last(slow, cluster.receiver, tally)
        batch = cluster.batch(tally, sender=slow).open().accepted(BROKEN).ready()
        cluster.moment()
        slow.stop()
        begin = time.monotonic()
        revoked = set(random.sample(batch.slots, len(batch.slots) // 2))
        cluster.receiver.scribble(revoked, before="revoke")
        lost = [slot for slot in batch.slots if slot not in revoked]
        batch.wait(cluster.receiver, lost, BROKEN)
        batch.verify(lost)
        cluster.receiver.scribble(lost)
        time.sleep(max(0, begin + random.uniform(*QUICK_LOST_S) - time.monotonic()))
        slow.resume()
        batch.settle()
        batch.wait(slow, batch.slots, BROKEN)
        slow.scribble(batch.slots)
        cluster.receiver.batch(f"close {slot}" for slot in batch.slots)
        transfer_at_last(slow, cluster.receiver, tally)
        cluster.receiver.check_scribbles(tally)
        slow.quit()


@anywhere
def receiver_stopped_for_long(cluster, tally):
    """Meanwhile the sender reuses what it sent, and serves somebody else."""
    with cluster.bystander_goes_on(tally):
        slow = cluster.new_receiver("slow", QUICK)
        transfer_at_last(cluster.sender, slow, tally)
        batch = cluster.batch(tally, receiver=slow).open().ready()
        cluster.moment()
        slow.stop()
        begin = time.monotonic()
        batch.settle()
        closed = batch.slots[::2]
        cluster.sender.scribble(closed)
        batch.wait(cluster.sender, batch.slots[1::2], BROKEN)
        cluster.sender.scribble(batch.slots[1::2])
        transfer(cluster.sender, cluster.receiver, tally)
        time.sleep(max(0, begin + random.uniform(*QUICK_LOST_S) - time.monotonic()))
        slow.resume()
        batch.wait(slow, batch.slots, BROKEN)
        batch.verify(batch.slots)
        slow.scribble(batch.slots)
        slow.check_scribbles(tally)
        transfer_at_last(cluster.sender, slow, tally)
        cluster.retire_receiver(slow)


# Requests that end early.


@anywhere
def revoked_and_reopened_at_once(cluster, tally):
    """The same blocks, granted anew with nothing in between: the old one's bytes would be wrong."""
    with cluster.bystander_goes_on(tally):
        batch = cluster.batch(tally, **LONG_LEASE).open().ready()
        cluster.moment()
        slots = random.sample(batch.slots, (len(batch.slots) + 1) // 2)
        again = Batch(cluster.sender, cluster.receiver, tally, slots, LEASE_LONG_MS)
        again.pulled = set()
        tally.requests += len(slots)
        lines = []
        for slot in slots:
            verb = random.choice((f"revoke {slot} 0", f"revoke {slot}", f"close {slot}"))
            lines += [verb, f"close {slot}", f"grant {slot} {again.keys[slot]} {LEASE_LONG_MS}"]
        for slot, answer in zip(slots, cluster.receiver.batch(lines)[2::3]):
            again.tickets[slot] = answer.expect().text
        again.granted = list(slots)
        batch.settle()
        batch.wait(cluster.sender, slots, ("KVX_E_REVOKED", "KVX_E_REFUSED"))
        cluster.sender.scribble(slots)
        for slot in slots:
            batch.granted.remove(slot)
            batch.streamed.remove(slot)
        again.push(slots)
        again.ready().settle()
        batch.conclude()
        again.conclude()


@anywhere
def cancelled_by_the_sender(cluster, tally):
    with cluster.bystander_goes_on(tally):
        batch = cluster.batch(tally, **LONG_LEASE).open().accepted().ready().told()
        cluster.moment()
        slots = random.sample(batch.slots, (len(batch.slots) + 1) // 2)
        cluster.sender.scribble(slots, before=random.choice(("cancel", "close")))
        cluster.sender.batch(f"close {slot}" for slot in slots)
        for slot in slots:
            batch.streamed.remove(slot)
        batch.conclude(("KVX_E_CANCELLED",))


@anywhere
def lease_ends(cluster, tally):
    with cluster.bystander_goes_on(tally):
        lease_ms = random.randrange(1, 30)
        batch = cluster.batch(tally, lease_ms=lease_ms).open(("KVX_E_LEASE",)).ready()
        batch.conclude(("KVX_E_LEASE", "KVX_E_REVOKED", "KVX_E_REFUSED", "KVX_E_CANCELLED"))


@anywhere
def wall_clock_jumps(cluster, tally):
    """Neither a lease nor a deadline cares."""
    with cluster.bystander_goes_on(tally):
        batch = cluster.batch(tally, **LONG_LEASE).open().ready().told()
        cluster.moment()
        alone = Batch(cluster.sender, cluster.receiver, tally, [SLOT_SPARE], lease_ms=40)
        alone.grant()
        everybody = (cluster.sender, cluster.receiver, cluster.bystander)
        for worker in everybody:
            worker.call(f"clock 0 {random.randrange(-TEN_YEARS_S, TEN_YEARS_S)}").expect()
        batch.conclude()
        alone.conclude(("KVX_E_LEASE",))
        assert not alone.ended[False], "a grant that nobody feeds is complete"
        for worker in everybody:
            worker.call("clock 0 0").expect()


# Processes that run out of something.


@anywhere
def no_descriptors_left(cluster, tally):
    run_short(cluster, tally, resource.RLIMIT_NOFILE, few_descriptors)


@anywhere
def no_address_space_left(cluster, tally):
    run_short(cluster, tally, resource.RLIMIT_AS, little_memory)


def few_descriptors(worker):
    return limits.lowest_free_descriptor(worker) + random.randrange(8)


def little_memory(worker):
    return limits.address_space_bytes(worker) + random.choice((0, 1 << 14, 1 << 18, 1 << 22))


def run_short(cluster, tally, kind, amount):
    """Of a newcomer and the receiver one lacks something while they meet. Who was there before
    goes on; a process that lacks memory may refuse to begin something itself."""
    newcomer = cluster.new_sender("newcomer")
    victim = random.choice((newcomer, cluster.receiver))
    lacks_memory = victim is cluster.receiver and kind == resource.RLIMIT_AS
    errors, lease_ms = (SHORT, 400) if lacks_memory else ((), LEASE_LONG_MS)
    with cluster.bystander_goes_on(tally):
        with limits.limited(victim, kind, amount(victim)):
            batch = cluster.batch(tally, sender=newcomer, lease_ms=400).open(SHORT).ready()
            batch.conclude(SHORT)
            Batch(cluster.bystander, cluster.receiver, tally, batch.slots[:4], lease_ms) \
                .open(errors).ready().conclude(errors)
    transfer(newcomer, cluster.receiver, tally)
    newcomer.expect_clean()
    newcomer.quit()


# Connections.


@anywhere
def peer_forgotten(cluster, tally):
    """One end closes the connection."""
    batch = under_way(cluster, tally)
    away = cluster.bystanders(tally, LEASE_MS).open().ready()
    worker = random.choice((cluster.sender, cluster.receiver))
    cluster.moment()
    batch.told()
    worker.call("forget 0").expect()
    batch.conclude(BROKEN)
    away.conclude(BROKEN if worker is cluster.receiver else ())


def cut(cluster, tally, verb):
    """All connections, the one that controls, or one that carries bytes, which is made anew."""
    with cluster.bystander_goes_on(tally):
        batch = under_way(cluster, tally)
        cluster.moment()
        cluster.strike(verb, random.choice(("all", "control", "data", "data")))
        batch.conclude(BROKEN)


@over("tcp")
def connection_closed(cluster, tally):
    cut(cluster, tally, "close")


@over("tcp")
def connection_reset(cluster, tally):
    cut(cluster, tally, "reset")


@over("tcp")
def connection_half_closed(cluster, tally):
    cut(cluster, tally, "half")


@over("tcp")
def connection_half_open(cluster, tally):
    """Nothing arrives any more and nobody says so: heartbeats tell, or the lease."""
    with cluster.bystander_goes_on(tally):
        host, prefill = cluster.new_receiver("quick", QUICK), cluster.new_sender("quick", QUICK)
        transfer_at_last(prefill, host, tally)
        batch = cluster.batch(tally, prefill, host, lease_ms=600).open().ready().told()
        cluster.moment()
        cluster.strike("freeze", random.choice(("all", "control", "data")), host)
        perhaps(batch.revoke_some)
        batch.conclude(BROKEN)
        for verb in random.choice((("flow",), ("close", "flow"))):
            cluster.strike(verb, "all", host)
        transfer_at_last(prefill, host, tally)
        prefill.quit()
        cluster.retire_receiver(host)


@over("tcp")
def socket_buffers_full(cluster, tally):
    """Nobody reads for a while."""
    hinder(cluster, tally, "freeze", BRIEF_S)


@over("tcp")
def few_bytes_at_a_time(cluster, tally):
    hinder(cluster, tally, "trickle", 0.1)


def hinder(cluster, tally, verb, longest_s):
    with cluster.bystander_goes_on(tally):
        batch = cluster.batch(tally, **LONG_LEASE).open().ready()
        cluster.moment()
        cluster.strike(verb, "all")
        time.sleep(random.uniform(0, longest_s))
        perhaps(batch.revoke_some)
        cluster.strike("flow", "all")
        batch.conclude()


@over("cable")
def cable_pulled_briefly(cluster, tally):
    with cluster.bystander_goes_on(tally):
        batch = cluster.batch(tally).open().ready()
        cluster.moment()
        pull(cluster, "down")
        time.sleep(random.uniform(0, BRIEF_S))
        perhaps(batch.revoke_some)
        pull(cluster, "up")
        batch.conclude(BROKEN)


@over("cable")
def cable_pulled_for_long(cluster, tally):
    with cluster.bystander_goes_on(tally):
        host, prefill = cluster.new_receiver("quick", QUICK), cluster.new_sender("quick", QUICK)
        transfer_at_last(prefill, host, tally)
        batch = cluster.batch(tally, prefill, host, lease_ms=LEASE_MS).open()
        batch.accepted(BROKEN).ready().told()
        cluster.moment()
        pull(cluster, "down")
        batch.conclude(BROKEN)
        pull(cluster, "up")
        transfer_at_last(prefill, host, tally)
        prefill.quit()
        cluster.retire_receiver(host)


def pull(cluster, state):
    cluster.prefill.run("ip", "link", "set", "cable", state)
