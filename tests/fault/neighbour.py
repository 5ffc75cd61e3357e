#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One bad neighbour: what it does to an engine disturbs no other peer of that engine."""
import dataclasses

import fault
import hostile
import tap
from fault import Requests, Tally, Worker, rounds, transfer

CONNECTIONS = 2000
BOTH_DOORS = dataclasses.replace(fault.TCP, options=("transports=shm,tcp",))


@tap.cases_for((fault.SHM, fault.TCP))
def bad_neighbour_disturbs_nobody(mode):
    with fault.workers():
        tally = Tally("bad neighbour", mode)
        receiver, sender = Worker(BOTH_DOORS, blocks=4), Worker(mode, blocks=4)
        transfer(sender, receiver, tally)
        neighbour = hostile.Neighbour(receiver.address, rounds(CONNECTIONS))
        threads = receiver.counts()[1]
        neighbour.start()
        while neighbour.is_alive():
            transfer(sender, receiver, tally)
            assert receiver.counts()[1] == threads, "the engine made threads"
        tally.tried = neighbour.made
        assert not neighbour.failure, neighbour.failure
        assert receiver.stats()["protocol_errors"], "no attack came past the door"
        # Another peer still gets in.
        newcomer = Worker(mode, blocks=4)
        Requests(newcomer, receiver).open().finish(tally)
        newcomer.quit()
        sender.quit()
        receiver.expect_no_leak()
        receiver.quit()
        tally.report()


tap.main()
