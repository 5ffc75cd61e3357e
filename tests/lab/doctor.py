#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvxfer-doctor between two nodes: their RDMA devices, a port that is taken down, both rails."""
import json
import pathlib
import sys

import tap

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import common
import lab
from common import shared, within

DOCTOR = sys.argv[3]
PORT = 27411
LIMIT_S = 200  # the nodes' processors may be emulated
RAILS = ("tcp", "verbs rxe0:1", "verbs rxe1:1")


def report(node, *arguments):
    done = shared().run(node, (DOCTOR, "--json", "-", *arguments), LIMIT_S).expect(0, 1, 2)
    return json.loads(done.out)


def expect_one(found, area, severities, text):
    same = [
        finding for finding in found["findings"]
        if finding["area"] == area and finding["severity"] in severities
        and text in finding["found"]
    ]  # fmt: skip
    assert same, f"no {severities} of {area} with {text}: {json.dumps(found, indent=1)}"
    return same[0]


def expect_ports(found, up):
    for rail in lab.RAILS:
        if rail in up:
            expect_one(found, "rdma", ("ok",), f"rxe{rail} port 1: active, RoCE")
        else:
            down = expect_one(found, "rdma", ("warning",), f"rxe{rail} port 1: down, RoCE")
            assert down["action"], down


@tap.case
def both_devices_are_found_in_each_node():
    for node in lab.NODES:
        found = report(node)
        expect_ports(found, lab.RAILS)
        for rail in lab.RAILS:
            address = lab.address(node, f"rail{rail}")
            expect_one(found, "gid", ("ok",), f"RoCE v2, {address} of rail{rail}")
            expect_one(found, "mtu", ("ok",), f"MTU 4096, over rail{rail} with 4200")
            expect_one(found, "locked memory", ("ok", "warning"), f"rxe{rail}: 64 MiB")
        expect_one(found, "ports", ("ok",), "transport verbs")


@tap.case
def a_port_that_is_taken_down_is_told():
    nodes = shared()
    nodes.set_link(0, 1, False)
    try:
        within(30, lambda: port_state(0, 1) != "4: ACTIVE", "the port is down")
        expect_ports(report(0), (0,))
    finally:
        nodes.set_link(0, 1, True)
    within(30, lambda: port_state(0, 1) == "4: ACTIVE", "the port is active")
    expect_ports(report(0), lab.RAILS)


def port_state(node, rail):
    path = f"/sys/class/infiniband/rxe{rail}/ports/1/state"
    return shared().run(node, ("cat", path)).expect().out.strip()


@tap.case
def the_peer_is_reached_over_both_rails():
    nodes = shared()
    address = f"{lab.address(1, 'mgmt')}:{PORT}"
    listener = nodes.spawn(1, (DOCTOR, "--listen", address, "--unauthenticated-network"))
    try:
        listener.wait_for_text("listening on")
        found = report(0, "--peer", address)
    finally:
        listener.kill()
        said = listener.wait()
    assert [rail["rail"] for rail in found["peer"]["rails"]] == list(RAILS), found
    for rail in found["peer"]["rails"]:
        assert rail["gbytes_per_s"], f"{json.dumps(found, indent=1)}\n{said}"
        # Soft-RoCE is far slower than the link that it sits on says.
        expect_one(found, "peer", ("ok", "warning"), f"{rail['rail']}: ")
    assert found["peer"]["path_mtu"] == 1500, found["peer"]


common.main()
