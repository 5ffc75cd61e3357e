#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Followers of events that take nothing for a minute are closed, others are not."""
import select
import threading
import time

import tap
from control import Events, connect, hosts

STALLED_S = 60
LONG_MS = 600000  # longer than any test
PAIRS = 4000  # more than a socket buffers


def closed_after(bare, seconds):
    """When the server closes a connection that nobody reads; None: not so soon."""
    begin = time.monotonic()
    poll = select.poll()
    poll.register(bare, select.POLLRDHUP)
    return time.monotonic() - begin if poll.poll(seconds * 1000) else None


@tap.case
def a_follower_that_takes_nothing_is_closed_after_a_minute():
    with hosts("a") as (host,), Events(host) as reading, connect(host.path) as stalled:
        stalled.sendall(b"GET /v1/events HTTP/1.1\r\nHost: kvxfer\r\n\r\n")
        seen = []
        reader = threading.Thread(target=lambda: seen.extend(reading.until("drain_done")))
        reader.start()
        for _ in range(PAIRS):
            grant = host.do("grant", host.pools[0], 0, 1, LONG_MS)["grant"]
            host.do("close", grant)
        seconds = closed_after(stalled, 2 * STALLED_S)
        assert seconds and STALLED_S - 5 < seconds < STALLED_S + 15, seconds
        # Who has taken all there is had comments meanwhile, and hears what comes next.
        host.post("/v1/drain", {"deadline_ms": 1000}, 200)
        reader.join()
        assert reading.comments >= 4 and seen[-1][1] == "drain_done"


tap.main()
