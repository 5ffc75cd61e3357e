#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Faults that the verbs transport has to survive, in the lab. Every byte is verified after each."""
import random
import time

import common
import fleet
import lab
import tap
from common import equal, packets, shared, within
from fleet import RECEIVER, SENDER, Worker, fault
from fault import LAYERS, SLOTS, Requests, Tally, new_key, transfer

SLACK_S = 3.0  # for emulated processors, beyond what the contract allows
NOTICED_S = 2 + SLACK_S  # two heartbeats
ALL_RAILS_DOWN_S = 2 + SLACK_S  # connect_timeout_ms
MID_STREAM_S = 0.2
CONNECTIONS = 4  # two rails of two queue pairs
ATTEMPTS = 50
PATIENT = "heartbeat_ms=30000"  # a stopped peer is not lost
ENDS = {"at the sender": SENDER, "at the receiver": RECEIVER}


def mid_stream(requests, lease_ms=60000):
    """All slots stream, all layers but the last: so they cannot end before the fault."""
    requests.open(lease_ms).ready(LAYERS - 1)
    time.sleep(random.uniform(0, MID_STREAM_S))


def wait_each(worker, requests):
    return worker.each("wait", requests.slots, 20000).values()


def expect_complete(requests, tally):
    requests.settle()
    requests.ready().settle()
    for worker in (requests.receiver, requests.sender):
        for answer in wait_each(worker, requests):
            tally.outcome(answer.expect())
    equal(requests.verify(tally), len(requests.slots) * LAYERS)
    requests.close()


def end(answer, tally, *results):
    """Of a request that cannot complete."""
    tally.outcome(answer.expect(*results), *results)


def units(requests):
    """What the receiver is to count: one for each rail that was up, in each layer."""
    targets = requests.receiver.each("target", requests.slots).values()
    return sum(int(answer.text) for answer in targets) * LAYERS


def expect_counted(receiver, expected):
    """Each unit once, also if it was sent again."""
    stats = receiver.stats()
    equal((stats["units_received"], stats["protocol_errors"]), (expected, 0))


def expect_prompt(begin, longest_s):
    took_s = time.monotonic() - begin
    assert took_s < longest_s, f"{took_s:.3f} s, expected at most {longest_s:.3f} s"


def expect_usable(sender, receiver, tally):
    transfer(sender, receiver, tally)
    for worker in (sender, receiver):
        worker.quit()
    tally.report()


def set_links(node, rails, up):
    for rail in rails:
        shared().set_link(node, rail, up)


def carries(sender, receiver, tally, rail):
    """A request goes over this rail, at least in part."""
    before = packets(SENDER, rail)
    transfer(sender, receiver, tally)
    return packets(SENDER, rail) - before > 1000


def expect_only(sender, receiver, tally, rail, other):
    """Unless a queue pair broke meanwhile: soft-RoCE does that by itself on a machine that is slow
    enough, and then the other rail is right to take over."""
    for _ in range(5):
        lost, before = sender.stats()["rails_lost"], packets(SENDER, other)
        carried = carries(sender, receiver, tally, rail)
        if sender.stats()["rails_lost"] == lost:
            break
    over_other = packets(SENDER, other) - before
    assert carried, f"rail {rail} carries nothing"
    assert over_other < 100, f"rail {other} carries {over_other} packets too"


def expect_traffic(sender, receiver, tally, rail=1):
    """Bytes go over the rail, as soon as it is up again."""

    within(20, lambda: carries(sender, receiver, tally, rail), f"rail {rail} carries data again")


@tap.cases_for(ENDS)
def a_rail_goes_down_in_mid_stream_and_comes_back(where):
    node = ENDS[where]
    with fault.workers():
        tally = Tally("link of a rail down", where)
        receiver, sender = fleet.pair()
        requests = Requests(sender, receiver)
        mid_stream(requests)
        expected = units(requests)
        set_links(node, [1], False)
        tally.tried += 1
        try:
            expect_complete(requests, tally)
            assert sender.stats()["rails_lost"], "no rail was lost"
            expect_counted(receiver, expected)
            transfer(sender, receiver, tally)
        finally:
            set_links(node, [1], True)
        expect_traffic(sender, receiver, tally)
        expect_usable(sender, receiver, tally)


@tap.cases_for(ENDS)
def all_rails_go_down_in_mid_stream(where):
    """Waits end with the reason on both sides, and once the links are back all works."""
    node = ENDS[where]
    with fault.workers():
        tally = Tally("all links down", where)
        receiver, sender = fleet.pair()
        requests = Requests(sender, receiver)
        mid_stream(requests)
        begin = time.monotonic()
        set_links(node, lab.RAILS, False)
        tally.tried += 1
        try:
            requests.settle()
            for worker in (sender, receiver):
                for answer in wait_each(worker, requests):
                    end(answer, tally, "KVX_E_TRANSPORT", "KVX_E_PEER_LOST")
                    assert "port 1: " in answer.text, answer.text
            expect_prompt(begin, ALL_RAILS_DOWN_S)
            requests.verify(tally)
            requests.close()
        finally:
            set_links(node, lab.RAILS, True)
        within(10, lambda: port_states(node) == ["4: ACTIVE"] * 2, "the ports are active")
        expect_usable(sender, receiver, tally)


def port_states(node):
    paths = [f"/sys/class/infiniband/rxe{rail}/ports/1/state" for rail in lab.RAILS]
    return shared().run(node, ("cat", *paths)).expect().out.splitlines()


@tap.cases_for(range(2))
def memory_uses_the_nic_of_its_numa_node(numa):
    """The other one is used as soon as that has no link, and left when it is back."""
    near, far = numa, 1 - numa
    with fault.workers():
        tally = Tally("link of the nearest NIC down", f"memory of NUMA node {numa}")
        bound = ("taskset", "-c", str(numa))
        receiver, sender = fleet.pair("topology=auto", prefix=bound)
        expect_only(sender, receiver, tally, near, far)
        set_links(SENDER, [near], False)
        tally.tried += 1
        try:
            within(10, lambda: carries(sender, receiver, tally, far), f"rail {far} takes over")
        finally:
            set_links(SENDER, [near], True)
        within(20, lambda: carries(sender, receiver, tally, near), f"rail {near} is back")
        expect_usable(sender, receiver, tally)


@tap.cases_for(range(2))
def the_engines_thread_goes_to_the_node_of_its_memory(numa):
    """Where its NIC is; the processors of its process are left as they are."""
    prefix = ("hwloc-bind", "--membind", f"node:{numa}", "--")
    with fault.workers():
        tally = Tally("none", f"memory of NUMA node {numa}, any processor")
        worker = Worker(RECEIVER, "topology=auto", prefix=prefix)
        equal(processors(worker, "kvxfer"), str(numa))
        equal(processors(worker, "fault-worker"), "0-1")
        off = Worker(SENDER, "topology=auto", "progress_numa=off", prefix=prefix)
        equal(processors(off, "kvxfer"), "0-1")
        expect_usable(off, worker, tally)


def processors(worker, thread):
    """That this thread of the worker may use."""
    statuses = f"/proc/{worker.pid}/task/*/status"
    show = f"grep -lx 'Name:.{thread}' {statuses} | xargs grep -h Cpus_allowed_list"
    return shared().run(worker.node, show).expect().out.split()[1]


@tap.case
def a_rail_that_swallows_packets_is_left_for_the_other():
    """No port is down: only what is not acknowledged tells."""
    there = f"{lab.address(RECEIVER, 'rail1')} dev rail1"
    with fault.workers():
        tally = Tally("packets of a rail lost", "no event")
        receiver, sender = fleet.pair()
        requests = Requests(sender, receiver)
        mid_stream(requests)
        expected = units(requests)
        shared().run(SENDER, f"ip neigh replace {there} lladdr 52:54:00:00:00:99").expect()
        tally.tried += 1
        try:
            expect_complete(requests, tally)
            assert sender.stats()["rails_lost"], "no rail was lost"
            expect_counted(receiver, expected)
            transfer(sender, receiver, tally)
        finally:
            shared().run(SENDER, f"ip neigh del {there}").expect()
        expect_traffic(sender, receiver, tally)
        expect_usable(sender, receiver, tally)


def stop_and_revoke(tally, *options):
    """The sender is stopped in mid-layer; what it has posted goes on. Its requests are revoked and
    their blocks filled; it wakes up, and nothing of that changes."""
    receiver, sender = fleet.pair(PATIENT, *options)
    transfer(sender, receiver, tally)
    requests = Requests(sender, receiver)
    mid_stream(requests)
    sender.stop()
    tally.tried += 1
    begin = time.monotonic()
    reused = {slot: revoke_and_fill(receiver, slot) for slot in requests.slots}
    expect_prompt(begin, SLOTS * 1 + SLACK_S)  # each is given one second to drain
    for slot, key in reused.items():
        tally.verify(receiver.call(f"check {slot} {key}"))
    sender.resume()
    requests.settle()
    for answer in wait_each(sender, requests):
        end(answer, tally, "KVX_E_REVOKED")
    time.sleep(0.5)
    for slot, key in reused.items():
        tally.verify(receiver.call(f"check {slot} {key}"))
    requests.close()
    return receiver, sender


@tap.case
def revoked_while_the_sender_is_stopped_in_mid_layer():
    with fault.workers():
        tally = Tally("revoked while sender stopped", "windows")
        receiver, sender = stop_and_revoke(tally)
        expect_usable(sender, receiver, tally)


@tap.case
def revoked_while_the_sender_is_stopped_and_there_are_no_windows():
    """Its queue pairs are destroyed, and made anew once it is back."""
    with fault.workers():
        tally = Tally("revoked while sender stopped", "no windows")
        receiver, sender = stop_and_revoke(
            tally, "verbs_windows=off", "connect_timeout_ms=20000"
        )
        assert receiver.stats()["rails_lost"], "no rail was made anew"
        expect_usable(sender, receiver, tally)


class Hostile(Worker):
    """A sender that runs only while it is asked something."""

    program = fleet.HOSTILE

    def __init__(self):
        super().__init__(SENDER, PATIENT, "progress=caller")


@tap.cases_for(("an unknown key", "a key of an earlier binding", "a revoked key"))
def a_sender_uses(what):
    """It gets an error and changes nothing; its streams over the same queue pairs go on."""
    with fault.workers():
        tally = Tally("hostile sender", what)
        receiver, sender = Worker(RECEIVER, PATIENT), Hostile()
        requests = Requests(sender, receiver)
        requests.offer()
        bad, *good = requests.slots
        reused = {}
        if what == "a revoked key":
            sender.call(f"keys {bad}").expect()
            reused[bad] = revoke_and_fill(receiver, bad)
            sender.call(f"close {bad}").expect()
            receiver.call(f"close {bad}").expect()
            again = Requests(sender, receiver, [bad])
            again.offer()
            requests.keys |= again.keys
            sender.call(f"replay {bad}").expect()
        else:
            mask = "ff00" if what == "an unknown key" else "1"
            sender.call(f"forge {bad} {mask}").expect()
        for slot in good:  # theirs are there too, so that all streams begin at once
            sender.call(f"keys {slot}").expect()
        reused[bad] = new_key()
        receiver.call(f"fill {bad} {reused[bad]}").expect()
        tally.tried += 1
        requests.ready().settle()
        end(sender.call(f"wait {bad} 20000"), tally, "KVX_E_REVOKED")
        for worker in (sender, receiver):
            for slot in good:
                tally.outcome(worker.call(f"wait {slot} 20000").expect())
        end(receiver.call(f"wait {bad} 20000"), tally, "KVX_E_CANCELLED")
        equal(requests.verify(tally, good), len(good) * LAYERS)
        tally.verify(receiver.call(f"check {bad} {reused[bad]}"))
        expect_counted(receiver, units(Requests(sender, receiver, good)))
        assert sender.stats()["rails_lost"], "no write was refused"
        requests.close()
        sender.quit()
        expect_usable(Worker(SENDER, PATIENT), receiver, tally)


def revoke_and_fill(receiver, slot):
    key = new_key()
    receiver.call(f"revoke {slot}", f"fill {slot} {key}").expect()
    return key


@tap.case
def sender_is_killed():
    with fault.workers():
        tally = Tally("sender killed", "verbs")
        receiver, sender = fleet.pair()
        requests = Requests(sender, receiver)
        mid_stream(requests)
        begin = sender.kill()
        tally.tried += 1
        for answer in wait_each(receiver, requests):
            end(answer, tally, "KVX_E_PEER_LOST")
        expect_prompt(begin, NOTICED_S)
        requests.verify(tally)
        reused = {slot: revoke_and_fill(receiver, slot) for slot in requests.slots}
        time.sleep(0.5)
        for slot, key in reused.items():
            tally.verify(receiver.call(f"check {slot} {key}"))
        receiver.each("close", requests.slots)
        expect_usable(Worker(SENDER), receiver, tally)


@tap.case
def receiver_is_killed():
    with fault.workers():
        tally = Tally("receiver killed", "verbs")
        receiver, sender = fleet.pair()
        requests = Requests(sender, receiver)
        mid_stream(requests)
        begin = receiver.kill()
        tally.tried += 1
        requests.settle()
        for answer in wait_each(sender, requests):
            # The kernel may take its windows before its connections.
            end(answer, tally, "KVX_E_PEER_LOST", "KVX_E_TRANSPORT", "KVX_E_REVOKED")
        expect_prompt(begin, NOTICED_S)
        sender.each("close", requests.slots)
        expect_usable(sender, Worker(RECEIVER), tally)


@tap.cases_for(ENDS)
def a_machine_stands_still_for_longer_than_the_lease(where):
    node, lease_s = ENDS[where], 1.5
    with fault.workers():
        tally = Tally("machine stands still", where)
        receiver, sender = fleet.pair()
        requests = Requests(sender, receiver)
        begin = time.monotonic()
        mid_stream(requests, int(lease_s * 1000))
        requests.settle()
        shared().pause(node)
        tally.tried += 1
        ends = ("KVX_E_LEASE", "KVX_E_PEER_LOST", "KVX_E_TRANSPORT")
        try:
            awake = receiver if node == SENDER else sender
            for answer in wait_each(awake, requests):
                end(answer, tally, *ends)
            expect_prompt(begin, lease_s + SLACK_S)
            time.sleep(max(0, begin + lease_s + 1 - time.monotonic()))
        finally:
            shared().resume(node)
        for answer in wait_each(sender if node == SENDER else receiver, requests):
            end(answer, tally, *ends)
        requests.verify(tally)
        requests.close()
        expect_usable(sender, receiver, tally)


@tap.case
def a_peer_is_restarted_under_the_same_address():
    """Tickets of the earlier one are refused, by name; new ones are good."""
    listen = f"verbs_listen={lab.address(RECEIVER, 'mgmt')}:7017"
    with fault.workers():
        tally = Tally("receiver restarted", "verbs")
        sender, first = Worker(SENDER), Worker(RECEIVER, listen)
        transfer(sender, first, tally)
        old = Requests(sender, first, [0])
        old.keys[0] = new_key()
        old.tickets[0] = first.call(f"grant 0 {old.keys[0]} 60000").expect().text
        first.kill()
        first.reap()
        second = Worker(RECEIVER, listen)
        equal(second.address, first.address)
        tally.tried += 1
        old.present(0)
        answer = tally.outcome(sender.call("wait 0 10000"), "KVX_E_PEER_RESTARTED")
        for incarnation in (first.incarnation, second.incarnation):
            assert incarnation in answer.text, answer.text
        sender.call("close 0").expect()
        expect_usable(sender, second, tally)


def rnr_naks():
    return sum(packets(SENDER, rail, "rcvd_rnr_err") for rail in lab.RAILS)


@tap.case
def a_receiver_lacks_receives_for_a_while():
    """It is stopped while more units arrive than it has receives."""
    with fault.workers():
        tally = Tally("receives exhausted", "verbs")
        small = {"block_bytes": 64, "blocks": 4}
        receiver = Worker(RECEIVER, PATIENT, "verbs_receives=4", **small)
        sender = Worker(SENDER, PATIENT, **small)
        transfer(sender, receiver, tally)
        before = rnr_naks()
        counted = receiver.stats()["units_received"]
        requests = Requests(sender, receiver).open()
        expected = units(requests)
        receiver.stop()
        tally.tried += 1
        requests.ready()
        time.sleep(0.7)
        receiver.resume()
        expect_complete(requests, tally)
        assert rnr_naks() > before, "it never lacked receives"
        expect_counted(receiver, counted + expected)
        expect_usable(sender, receiver, tally)


@tap.case
def too_little_memory_may_be_locked():
    """What is locked, by which device, the limit, and what to raise."""
    fault.need_programs("prlimit", "setpriv")
    prefix = ("prlimit", "--memlock=8388608", "setpriv", "--bounding-set=-ipc_lock")
    try:
        Worker(RECEIVER, prefix=prefix)
    except AssertionError as error:
        text = str(error)
    else:
        raise AssertionError("memory was registered beyond the limit")
    for words in ("KVX_E_MEMORY", "rxe0", "10.0 MiB", "8 MiB", "RLIMIT_MEMLOCK"):
        assert words in text, f"no {words}: {text}"


@tap.cases_for(ENDS)
def one_end_has_fewer_devices(where):
    with fault.workers():
        tally = Tally("one device", where)
        few = {ENDS[where]: ["verbs_devices=rxe0"]}
        receiver, sender = (Worker(each, *few.get(each, [])) for each in (RECEIVER, SENDER))
        tally.tried += 1
        before = packets(SENDER, 1)
        expect_usable(sender, receiver, tally)
        equal(packets(SENDER, 1) - before, 0)


def over_all_rails(sender, receiver):
    """Requests that were opened when all were up."""
    for _ in range(ATTEMPTS):
        requests = Requests(sender, receiver).open()
        if units(requests) == SLOTS * LAYERS * CONNECTIONS:
            return requests
        requests.close()
        time.sleep(0.1)
    raise AssertionError(f"not {CONNECTIONS} connections")


@tap.case
def completions_are_as_many_as_layers_times_connections():
    """Whatever the number and size of blocks, if each connection gets one."""
    for blocks, block_bytes in ((4, 4096), (40, 4096), (5, 65536)):
        with fault.workers():
            tally = Tally("none", f"{blocks} blocks of {block_bytes} bytes")
            receiver, sender = fleet.pair(blocks=blocks, block_bytes=block_bytes)
            over_all_rails(sender, receiver).finish(tally)
            expect_counted(receiver, SLOTS * LAYERS * CONNECTIONS)
            # soft-RoCE loses a rail now and then when the machine is busy.
            assert receiver.stats()["units_duplicate"] <= sender.stats()["units_resent"]
            equal(receiver.stats()["units_late"], 0)
            expect_usable(sender, receiver, tally)


common.main()
