#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A short soak: whatever peers come and go, their requests end as they should, every byte is right,
and at rest nothing is left of them."""
import random
import sys

import tap

import judge
import soak

WORKER, PERCENT = sys.argv[3], int(sys.argv[4])
SECONDS = 7
HEARTBEAT_MS = 500 if PERCENT == 100 else 3000  # those that stay are not to be lost
SHOWN = 30  # lines of a report that is not good


@tap.case
def peers_come_and_go_and_leave_nothing():
    seed = random.SystemRandom().randrange(1 << 30)
    settings = soak.Settings(WORKER, SECONDS, ("tcp", "shm"), seed, interval_s=1, quiet_points=2,
                             heartbeat_ms=HEARTBEAT_MS)
    run = soak.Soak(settings).run()
    text, good = judge.lines(run, is_long=False, with_memory=PERCENT == 100)
    print(f"# seed {seed}", *(f"# {line}" for line in text), sep="\n")
    assert sum(count for key, count in run.outcomes.items() if key.endswith("|whole")), "none"
    assert good, "\n".join(text[-SHOWN:])


tap.main()
