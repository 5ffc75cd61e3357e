#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""While a peer lies, floods and drips, a healthy pair's requests come whole, the engine's memory
stays bounded, and nothing is left when the liar has gone."""
import random
import subprocess
import sys

import fault
import tap
from fault import Tally, Worker

import beside

LIAR = sys.argv[5]
SECONDS = 4
BLOCKS = 4
# What an engine may hold for the connections that it allows strangers: tickets in parts, messages
# that wait, memory of links (docs/endurance.md).
ANONYMOUS_KIB_MAX = 16 << 10
# Half of Linux's limits, and what the process has anyway.
MAPPINGS_MAX = 34000
ADDRESS_KIB_MAX = 66 << 30


def expect_back(receiver, before):
    """Mappings too, once the links have ended. Arenas of the allocator may stay."""
    receiver.expect_no_leak()
    after = beside.resources(receiver.pid)
    if fault.PERCENT == 100:
        assert after["mappings"] <= before["mappings"] + 16, f"{before} became {after}"
    return after


@tap.cases_for((fault.SHM, fault.TCP))
def a_liar_disturbs_nobody(mode):
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"# seed {seed}")
    with fault.workers():
        tally = Tally("liar", mode)
        receiver = Worker(beside.engine(mode), blocks=BLOCKS)
        sender = Worker(mode, blocks=BLOCKS)
        sum(1 for _ in beside.rounds_for(0.5, sender, receiver, tally))
        before = beside.resources(receiver.pid)
        liar = beside.Liar(LIAR, receiver, seed)
        most = 0
        try:
            for _ in beside.rounds_for(SECONDS, sender, receiver, tally, liar):
                most = max(most, beside.resources(receiver.pid)["anonymous_kib"])
            did = liar.end()
        finally:
            liar.reap()
        tally.tried = did["connections"]
        errors = receiver.stats()["protocol_errors"]
        print(f"# {did}\n# protocol errors {errors}, memory {before['anonymous_kib']} KiB, at "
              f"most {most} KiB")
        assert errors, "no lie came past the door"
        # A sanitizer keeps what was freed for a while.
        assert fault.PERCENT < 100 or most < before["anonymous_kib"] + ANONYMOUS_KIB_MAX, most
        beside.newcomer_gets_in(mode, receiver, tally, BLOCKS)
        sender.quit()
        print(f"# {before} became {expect_back(receiver, before)}")
        receiver.quit()
        tally.report()


@tap.cases_for(("mappings", "addresses"))
def peers_cannot_use_up_what_the_process_has(what):
    if fault.PERCENT < 100:
        raise tap.Skip("sanitizers have mappings of their own for those of the process")
    with fault.workers():
        tally = Tally(what, fault.SHM)
        # Patient, for a machine that is busy: a liar that is silent is lost.
        patient = "heartbeat_ms=10000"
        receiver = Worker(beside.engine(fault.SHM), patient, blocks=BLOCKS)
        liar = subprocess.Popen([LIAR, receiver.address, "1", what],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            said = liar.stdout.readline()
            held = beside.resources(receiver.pid)
            print(f"# {held}")
            assert said == b"filled\n", said
            assert held["mappings"] < MAPPINGS_MAX, held
            assert held["address_kib"] < ADDRESS_KIB_MAX, held
            for mode in (fault.SHM, fault.TCP):
                beside.newcomer_gets_in(mode, receiver, tally, BLOCKS)
            liar.stdin.close()
            assert liar.wait(fault.ANSWER_S) == 0
        finally:
            liar.kill()
            liar.wait()
            liar.stdout.close()
        receiver.expect_no_leak()
        receiver.quit()
        tally.report()


tap.main()
