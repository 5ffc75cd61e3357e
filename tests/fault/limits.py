# SPDX-License-Identifier: Apache-2.0
"""Limits of a worker that runs: on its descriptors, on its address space."""
import contextlib
import os
import resource


@contextlib.contextmanager
def limited(worker, kind, limit):
    """Only what the process takes from now on is limited."""
    before = resource.prlimit(worker.pid, kind)
    resource.prlimit(worker.pid, kind, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(worker.pid, kind, before)


def lowest_free_descriptor(worker):
    used = {int(name) for name in os.listdir(f"/proc/{worker.pid}/fd")}
    return min(set(range(len(used) + 1)) - used)


def address_space_bytes(worker):
    with open(f"/proc/{worker.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
