#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvxfer-topo over the machines of data/: what it finds, chooses, writes and refuses."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

import tap

TOPO = pathlib.Path(sys.argv[3])
DATA = tap.SOURCE / "tests" / "topology" / "data"
MACHINES = sorted(path.name for path in DATA.iterdir() if path.name != "expected.json")
# A folder of machines of your own, with an expected.json: file -> GPU -> {"class", "ports"}.
OWN = os.environ.get("KVX_TEST_TOPOLOGIES")
PLACE = {
    "name": str, "numa": (int, type(None)), "class": (str, type(None)), "nearest": list,
    "chosen": list, "failover": list, "explain": list,
}  # fmt: skip
NIC = {
    "pci": str, "name": str, "numa": (int, type(None)), "speed_gbps": (int, float, type(None)),
    "pcie_gbps": (int, float, type(None)), "state": str,
}  # fmt: skip


def topo(*arguments, status=0, **environment):
    """Runs the program; what is on stdout, or on stderr if it is to fail."""
    done = subprocess.run(
        [str(TOPO), *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60, env=dict(os.environ, **environment),
    )  # fmt: skip
    shown = " ".join(map(str, arguments))
    assert done.returncode == status, f"{shown}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stderr if status else done.stdout


def machine(name, *arguments):
    return json.loads(topo("--input", DATA / name, "--json", "-", *arguments))


def label(port):
    """A port's name, as the expected file has it."""
    name = port["name"] or port["pci"]
    return name if port["port"] == 1 else f"{name}:{port['port']}"


def summary(found):
    """What the expected file holds of a machine."""
    gpus = {
        gpu["pci"]: {
            "class": gpu["class"],
            "nearest": gpu["nearest"],
            "chosen": {label(port): round(port["weight"], 3) for port in gpu["chosen"]},
            "failover": [label(port) for port in gpu["failover"]],
        }
        for gpu in found["gpus"]
    }
    nodes = {
        node["name"]: {
            "chosen": {label(port): round(port["weight"], 3) for port in node["chosen"]},
            "failover": [label(port) for port in node["failover"]],
        }
        for node in found["numa_nodes"]
    }
    ports = {
        label(port): [
            port["state"], port["kind"], port["numa"],
            port["pcie_gbps"] and round(port["pcie_gbps"]),
        ]
        for port in found["nics"]
    }  # fmt: skip
    return {"gpus": gpus, "nodes": nodes, "ports": ports}


def expected():
    return json.loads((DATA / "expected.json").read_text())["machines"]


@tap.case
def every_machine_has_an_expectation():
    assert sorted(expected()) == MACHINES


@tap.cases_for(MACHINES)
def a_machine_is_found_and_chosen_for_as_expected(name):
    found, wanted = summary(machine(name)), expected()[name]
    tap.expect(
        f"{part} {key}: {found[part].get(key)} in place of {wanted[part].get(key)}"
        for part in wanted
        for key in sorted(set(found[part]) | set(wanted[part]))
        if found[part].get(key) != wanted[part].get(key)
    )


@tap.cases_for(MACHINES)
def the_json_has_its_fields(name):
    found = machine(name)
    tap.expect(
        f"{field}: {thing.get(field)!r}"
        for things, fields in (("gpus", PLACE), ("numa_nodes", PLACE), ("nics", NIC))
        for thing in found[things]
        for field, kind in fields.items()
        if field not in thing or not isinstance(thing[field], kind)
    )
    for gpu in found["gpus"]:
        assert gpu["class"] in ("PIX", "PXB", "PHB", "NODE", "SYS", None)
        assert len(gpu["explain"]) == len(found["nics"]) + len(found["others"])


@tap.cases_for(MACHINES)
def a_sentence_explains_every_pair(name):
    uses = (": chosen: ", ": kept for failover: ", ": not used: ")
    found = machine(name)
    for place in found["gpus"] + found["numa_nodes"]:
        for use, ports in zip(uses, (place["chosen"], place["failover"])):
            assert sum(use in text for text in place["explain"]) == len(ports), place
        tap.expect(text for text in place["explain"] if sum(use in text for use in uses) != 1)


REASONS = {
    "port-down.xml": "mlx5_0 port 1 (0000:13:00.0): not used: the port is down",
    "slow-function.xml": "31.51 Gb/s is far slower than the best of its class (504.1 Gb/s)",
    "displays.xml": "eth0 (0000:14:00.0): not used: not RDMA-capable",
    "rails-a.txt": "mlx5_2 port 1 (0000:30:00.0): not used: a management function",
    "functions-host.xml": "(0000:11:00.1): not used: a virtual function of a card",
    "four-nics-each.xml": "not used: SYS (across the machine), and nearer ports suffice",
    "shared-switches.xml": "as near as the chosen ones, but left to other GPUs",
    "half-as-many-nics.xml": "kept for failover: NODE (same NUMA node)",
}


@tap.cases_for(REASONS)
def a_sentence_says_why(name):
    sentences = machine(name)["gpus"][0]["explain"]
    assert any(REASONS[name] in text for text in sentences), "\n".join(sentences)
    assert REASONS[name] in topo("--input", DATA / name, "--explain")


@tap.case
def what_hides_its_tree_is_noted():
    assert "hypervisor" in machine("guest-flat.xml")["notes"][0]
    assert "hypervisor" in topo("--input", DATA / "guest-apart.xml")
    assert not machine("shared-switches.xml")["notes"]


@tap.cases_for(MACHINES)
def what_is_saved_is_read_as_the_same_machine(name):
    with tempfile.TemporaryDirectory() as folder:
        saved = pathlib.Path(folder) / "saved"
        assert topo("--input", DATA / name, "--save", saved) == ""
        again = json.loads(topo("--input", saved, "--json", "-"))
        assert summary(again) == summary(machine(name))
        assert topo("--input", saved, "--save", "-") == saved.read_text()


@tap.cases_for(MACHINES)
def the_picture_shows_every_gpu_and_port(name):
    found = machine(name)
    picture = xml.etree.ElementTree.fromstring(topo("--input", DATA / name, "--svg", "-"))
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    texts = {text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    for gpu in found["gpus"]:
        assert gpu["name"] in texts and gpu["pci"] in texts, texts
    assert {port["pci"] for port in found["nics"] if ":" in port["pci"]} <= texts
    links = [
        path for path in picture.iter("{http://www.w3.org/2000/svg}path") if "C" in path.get("d")
    ]
    places = found["gpus"] or found["numa_nodes"]
    assert len(links) == sum(len(place["chosen"]) for place in places)


@tap.case
def the_text_marks_the_choice():
    lines = topo("--input", DATA / "slow-function.xml").splitlines()
    assert lines[0].split() == ["NIC0", "NIC1", "NIC2", "NUMA"]
    assert lines[1].split()[:5] == ["GPU0", "PIX*", "PIX*", "PIX", "0"]
    assert lines[2].split()[:5] == ["NUMA0", "NODE*", "NODE*", "NODE", "0"]


def rails(found, local, remote):
    (entry,) = (
        entry for entry in found["rails"] if (entry["local"], entry["remote"]) == (local, remote)
    )
    return entry


@tap.case
def a_peer_shows_the_rails_between_two_machines():
    found = machine("rails-a.txt", "--peer", DATA / "rails-b.txt")
    entry = rails(found, "0000:11:00.0", "0000:21:00.0")
    assert [(rail["local_name"], rail["remote_name"], rail["use"]) for rail in entry["rails"]] == [
        ("mlx5_0", "mlx5_1", "chosen"), ("mlx5_1", "mlx5_0", "failover"),
    ]  # fmt: skip
    assert any("not used: a management function" in text for text in entry["explain"])
    assert any("no common fabric" in text for text in entry["explain"])
    text = topo("--input", DATA / "rails-a.txt", "--peer", DATA / "rails-b.txt", "--explain")
    assert "* mlx5_0 -- mlx5_1" in text and "no common fabric" in text


@tap.case
def between_equal_machines_the_nth_port_meets_the_nth():
    name = "four-nics-each.xml"
    found = machine(name, "--peer", DATA / name)
    assert len(found["rails"]) == 8 * 8 + 2 * 2
    chosen = [
        (rail["local_name"], rail["remote_name"], rail["weight"])
        for rail in rails(found, "0000:12:00.0", "0000:2e:00.0")["rails"]
        if rail["use"] == "chosen"
    ]
    assert chosen == [(f"rdmap{i}", f"rdmap{i + 4}", 0.25) for i in range(4)], chosen


@tap.case
def an_override_decides():
    found = machine("shared-switches.xml", "--override", "0000:12:00.0=mlx5_3,mlx5_4;*=mlx5_2")
    names = [[port["name"] for port in gpu["chosen"]] for gpu in found["gpus"]]
    assert names == [["mlx5_3", "mlx5_4"]] + 7 * [["mlx5_2"]], names


@tap.case
def the_environment_overrides_on_this_machine_alone():
    wrong = {"KVX_TOPOLOGY": "*=no_such_device"}
    assert "no_such_device" in topo("--json", "-", status=1, **wrong)
    topo("--input", DATA / "bond.xml", **wrong)


@tap.case
def this_machine_can_be_asked():
    found = json.loads(topo("--json", "-", KVX_TOPOLOGY=""))
    assert found["machine"] == "this machine" and found["numa_nodes"]
    assert "NUMA0" in topo(KVX_TOPOLOGY="")
    xml.etree.ElementTree.fromstring(topo("--svg", "-", KVX_TOPOLOGY=""))


@tap.case
def what_cannot_be_done_is_told_in_one_line():
    for arguments in (
        ["--input", "/nowhere"],
        ["--input", DATA / "expected.json"],
        ["--input", DATA / "bond.xml", "--peer", "/nowhere"],
        ["--input", DATA / "bond.xml", "--json", "/nowhere/file"],
        ["--input", DATA / "bond.xml", "--override", "*=mlx5_9"],
    ):
        text = topo(*arguments, status=1)
        assert text.startswith("kvxfer-topo: ") and text.count("\n") == 1, text
    if pathlib.Path("/dev/full").exists():
        assert "cannot be written" in topo("--json", "/dev/full", status=1, KVX_TOPOLOGY="")


@tap.case
def machines_of_your_own_have_the_expected_classes():
    if not OWN:
        raise tap.Skip("KVX_TEST_TOPOLOGIES names no folder")
    folder = pathlib.Path(OWN)
    for name, wanted in json.loads((folder / "expected.json").read_text()).items():
        found = json.loads(topo("--input", folder / name, "--json", "-"))
        classes = {
            gpu["pci"]: {"class": gpu["class"], "ports": gpu["nearest"]} for gpu in found["gpus"]
        }
        assert classes == wanted, f"{name}: {classes}"


tap.main()
