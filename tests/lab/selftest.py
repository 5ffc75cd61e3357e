#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The lab itself: commands, faults of links and machines, and that nothing is left behind."""
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import tap

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import common
import image
import lab
from common import equal, packets, shared, within

RUN = pathlib.Path(__file__).resolve().parent / "run"
PERFTEST_PORT = 18515
PINGPONG_PORT = 18515
RUN_LIMIT_S = 120
SHORT_S = 0.5


def port_state(node, rail):
    path = f"/sys/class/infiniband/rxe{rail}/ports/1/state"
    return shared().run(node, ("cat", path)).expect().out.strip()


def pingpong(rail, iterations=20):
    """From node 1 to node 0, over the rail's device; the connection is made over mgmt."""
    nodes = shared()
    command = ("ibv_rc_pingpong", "-d", f"rxe{rail}", "-g", "1", "-n", iterations)
    server = nodes.spawn(0, command)
    nodes.wait_for_listener(0, PINGPONG_PORT)
    nodes.run(1, (*command, lab.address(0, "mgmt"))).expect()
    server.wait().expect()


def start_stream(rail):
    """Writes from node 0 to node 1 that go on until they are killed."""
    nodes = shared()
    command = ("ib_write_bw", "-d", f"rxe{rail}", "-x", "1", "-s", "65536", "-n", "100000")
    # A time-out of 2^12 x 4 us; rxe takes the program's 7 retries for as many as it needs.
    command += ("-u", "12")
    receiver = nodes.spawn(1, command)
    nodes.wait_for_listener(1, PERFTEST_PORT)
    return nodes.spawn(0, (*command, lab.address(1, "mgmt"))), receiver


def grows(node, rail, name, by):
    """Waits until a counter of the device has grown."""
    first = packets(node, rail, name)
    within(90, lambda: packets(node, rail, name) >= first + by, f"{name} grows by {by}")


@tap.case
def output_and_exit_status_come_back():
    for node in lab.NODES:
        result = shared().run(node, "echo out; echo err >&2; hostname; exit 3")
        equal((result.code, result.out, result.err), (3, f"out\nnode{node}\n", "err\n"))
    equal(shared().run(0, ("printf", "%s|", "a b", "")).expect().out, "a b||")
    equal(shared().run(0, ("no-such-program",)).code, 127)
    equal(shared().run(0, "kill -TERM $$").code, 128 + signal.SIGTERM)
    size = 3 << 20
    equal(len(shared().run(0, ("head", "-c", size, "/dev/zero")).expect().out), size)


@tap.case
def several_commands_take_input_at_once():
    commands = [shared().spawn(node, "cat") for node in lab.NODES * 3]
    for turn in range(3):
        for number, command in enumerate(commands):
            command.write(f"{turn} {number}\n")
        for number, command in enumerate(commands):
            equal(command.read_line(), f"{turn} {number}\n")
    for command in commands:
        command.close_input()
        command.wait().expect()


@tap.case
def commands_are_stopped_and_killed_with_what_they_started():
    nodes = shared()
    command = nodes.spawn(0, "sleep 1000 & echo $!; cat")
    other = int(command.read_line())
    command.signal(signal.SIGSTOP)
    command.write("late\n")
    try:
        line = command.read_line(SHORT_S)
    except lab.LabError:
        command.signal(signal.SIGCONT)
        line = command.read_line()
    else:
        raise AssertionError("a stopped command answered")
    equal(line, "late\n")
    command.kill()
    equal(command.wait().code, 128 + signal.SIGKILL)
    within(5, lambda: nodes.run(0, f"kill -0 {other}").code, "what it started has ended")


@tap.case
def commands_end_when_their_time_is_up():
    began = time.monotonic()
    equal(shared().run(1, "echo begun; sleep 1000", SHORT_S).code, lab.TIMED_OUT)
    if time.monotonic() - began > 10:
        raise AssertionError("it took too long")


@tap.case
def files_go_both_ways():
    nodes = shared()
    with tempfile.TemporaryDirectory() as folder:
        sent, back = pathlib.Path(folder) / "sent", pathlib.Path(folder) / "back"
        sent.write_bytes(os.urandom(100000))
        nodes.put(1, sent, "/tmp/there")
        nodes.get(1, "/tmp/there", back)
        equal(back.read_bytes() == sent.read_bytes(), True)
    nodes.run(0, "echo from 0 >/lab/note").expect()
    equal(nodes.run(1, "cat /lab/note; rm /lab/note").expect().out, "from 0\n")
    equal((nodes.folder / "note").exists(), False)


@tap.case
def nodes_see_this_machine_and_cannot_change_it():
    nodes, here = shared(), pathlib.Path(__file__).resolve()
    equal(nodes.run(0, ("cat", here)).expect().out, here.read_text())
    with tempfile.NamedTemporaryFile(dir=nodes.folder) as probe:
        equal(nodes.run(0, f"test -e {lab.SHARE}/{pathlib.Path(probe.name).name}").code, 0)
    nodes.run(0, f"echo mine >/etc/kvxfer-lab-test && rm '{here}' && ! test -e '{here}'").expect()
    equal((os.path.exists("/etc/kvxfer-lab-test"), here.exists()), (False, True))


@tap.case
def rails_have_their_places_and_nodes_their_names():
    """Rail 0's NIC: root port, the switch's two sides, NIC. Rail 1's: root port, NIC."""
    for rail, steps in ((0, 4), (1, 2)):
        interface = f"/sys/class/net/rail{rail}"
        place = shared().run(0, f"readlink -f {interface}/device/..").expect().out.strip()
        # The path is /sys/devices/pciBUS/STEP/...
        equal((place, len(place.split("/")[4:])), (place, steps))
        node = shared().run(0, ("cat", f"{place}/numa_node")).expect().out
        parent = shared().run(0, ("cat", f"/sys/class/infiniband/rxe{rail}/parent")).expect().out
        equal((node, parent), (f"{rail}\n", f"rail{rail}\n"))
    equal(shared().run(0, "ls -d /sys/devices/system/node/node? | wc -l").expect().out, "2\n")
    equal(shared().run(0, "getent hosts node1").expect().out.split()[0], lab.address(1, "mgmt"))
    equal(shared().run(0, "ulimit -l").expect().out, "unlimited\n")


@tap.cases_for(lab.RAILS)
def verbs_work_over_rail(rail):
    tap.need("ibv_rc_pingpong")
    pingpong(rail)


@tap.case
def a_pulled_cable_is_a_port_event():
    for program in ("ibv_asyncwatch", "ibv_rc_pingpong"):
        tap.need(program)
    nodes = shared()
    watch = nodes.spawn(0, "stdbuf -oL ibv_asyncwatch -d rxe0")
    watch.wait_for_text("rxe0: async event")
    nodes.set_link(0, 0, False)
    watch.wait_for_text("IBV_EVENT_PORT_ERR")
    equal(port_state(0, 0), "1: DOWN")
    equal((port_state(0, 1), port_state(1, 0)), ("4: ACTIVE", "4: ACTIVE"))
    pingpong(1)
    nodes.set_link(0, 0, True)
    watch.wait_for_text("IBV_EVENT_PORT_ACTIVE")
    watch.kill()
    equal(watch.wait().code, 128 + signal.SIGKILL)
    pingpong(0)


def sends_again(node, rail):
    """A stream to a machine that stands still: the same again and again, more than any queue takes.
    Some kernels' soft-RoCE stops for good there, now and then."""
    first = packets(node, rail, "completer_retry_err"), packets(node, rail)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        now = packets(node, rail, "completer_retry_err"), packets(node, rail)
        if now[0] >= first[0] + 3 and now[1] >= first[1] + 500:
            return True
        time.sleep(0.1)
    return False


@tap.case
def a_machine_that_stands_still_loses_what_is_sent_to_it():
    for program in ("ib_write_bw", "ibv_rc_pingpong"):
        tap.need(program)
    nodes = shared()
    stream = start_stream(0)
    grows(1, 0, "rcvd_pkts", 200)
    nodes.pause(1)
    process = pathlib.Path(f"/proc/{nodes.nodes[1].process.pid}/stat")
    try:
        equal(process.read_text().rpartition(")")[2].split()[0], "T")
        again = sends_again(0, 0)
    finally:
        nodes.resume(1)
    # Whether the stream outlives that depends on how long it took; the machine does.
    for command in stream:
        command.kill()
        command.wait()
    pingpong(0)
    if not again:
        raise tap.Skip("soft-RoCE lost its timer, as it may: nothing was sent again")


def leftovers(folder):
    """Files there, and processes that were started with one of them."""
    found = [path.name for path in pathlib.Path(folder).iterdir()]
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in words:
            found.append(f"process {entry.name}")
    return found


def start_run(folder, *arguments):
    """tests/lab/run beside the lab that is up, with temporary files of its own."""
    shared()
    return subprocess.Popen(
        (sys.executable, RUN, "--cache", image.CACHE, *arguments),
        env={**os.environ, "TMPDIR": folder},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@tap.case
def machines_that_hang_are_started_once_more():
    class Machines:
        """So many of the next starts hang, or end."""

        hang, started, error = 0, 0, lab.Hung

        def start(self):
            Machines.started += 1
            if Machines.hang >= Machines.started:
                raise Machines.error("node 0 did not get up:\n")
            return self

    Machines.hang = 1
    assert isinstance(common.boot(Machines), Machines) and Machines.started == 2
    for hang, error, started in ((2, lab.Hung, 2), (1, lab.LabError, 1)):
        Machines.hang, Machines.error, Machines.started = hang, error, 0
        try:
            common.boot(Machines)
        except lab.LabError:
            equal(Machines.started, started)
        else:
            raise AssertionError("nobody learns of it")


@tap.case
def run_shows_both_and_keeps_what_they_wrote():
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as output:
        run = start_run(folder, "--output", output,
                        "echo zero; echo note >/lab/note", "echo one; sleep 1; exit 3")
        out, err = run.communicate(timeout=RUN_LIMIT_S)
        equal((run.returncode, sorted(out.splitlines())), (1, ["node0| zero", "node1| one"]))
        equal(err, "tests/lab/run: node 1: exit status 3\n")
        kept = {path.name: path.read_text() for path in pathlib.Path(output).iterdir()}
        got = (kept["node0.stdout"], kept["node1.status"], kept["note"])
        equal(got, ("zero\n", "3\n", "note\n"))
        equal(leftovers(folder), [])


@tap.case
def run_that_is_interrupted_leaves_nothing():
    with tempfile.TemporaryDirectory() as folder:
        run = start_run(folder, "echo up; sleep 1000", "sleep 1000")
        equal(run.stdout.readline(), "node0| up\n")
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=10)
        equal((run.returncode, leftovers(folder)), (128 + signal.SIGINT, []))


@tap.case
def machines_end_even_if_run_is_killed():
    with tempfile.TemporaryDirectory() as folder:
        run = start_run(folder, "true", "true")

        def machines():
            return [name for name in leftovers(folder) if name.startswith("process")]

        within(20, lambda: len(machines()) == len(lab.NODES), "both machines run")
        run.kill()
        run.communicate(timeout=10)
        within(5, lambda: not machines(), "both machines have ended")


common.main()
