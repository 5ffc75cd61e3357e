# SPDX-License-Identifier: Apache-2.0
"""What test programs of the lab share: one lab for all cases of a program."""
import time

import lab
import tap


def boot(make=lab.Lab):
    """An emulated machine hangs now and then before it has said a word: once more, then."""
    try:
        return make().start()
    except lab.Hung as error:
        print("#", str(error).splitlines()[0], "Once more.", flush=True)
    return make().start()


class Shared:
    """The first case begins it; if it does not come up, no other tries again."""

    def __init__(self):
        self.lab, self.failure = None, None

    def __call__(self):
        if self.failure:
            raise self.failure
        if not self.lab:
            try:
                self.lab = boot()
            except lab.CannotRun as reason:
                self.failure = tap.Skip(str(reason))
                raise self.failure from reason
            except lab.LabError as error:
                self.failure = AssertionError(str(error))
                raise self.failure from error
        return self.lab

    def stop(self):
        if self.lab:
            self.lab.stop()


shared = Shared()


def main():
    lab.end_on_signals()
    try:
        tap.main()
    finally:
        shared.stop()


def equal(got, wanted):
    if got != wanted:
        raise AssertionError(f"{got!r}, expected {wanted!r}")


def within(limit_s, condition, what):
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {limit_s} s: {what}")
        time.sleep(0.1)


def packets(node, rail, name="sent_pkts"):
    """A counter of the rail's device."""
    path = f"/sys/class/infiniband/rxe{rail}/ports/1/hw_counters/{name}"
    return int(shared().run(node, ("cat", path)).expect().out)
