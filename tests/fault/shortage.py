#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A process that runs out of something: a clear error, and it goes on when it has it again."""
import os
import resource

import fault
import tap
from fault import Requests, Tally, Worker, transfer
from limits import address_space_bytes, limited, lowest_free_descriptor

UNREACHABLE = "KVX_E_UNREACHABLE"


@tap.cases_for(fault.MODES)
def receiver_is_out_of_descriptors(mode):
    """A newcomer is told that it does not get in; who is in goes on."""
    fault.need_ipv6(mode)
    with fault.workers():
        tally = Tally("receiver out of descriptors", mode)
        receiver, sender, newcomer = (Worker(mode) for _ in range(3))
        transfer(sender, receiver, tally)
        requests = Requests(newcomer, receiver, [0])
        with limited(receiver, resource.RLIMIT_NOFILE, lowest_free_descriptor(receiver)):
            requests.offer()
            tally.tried += 1
            tally.outcome(newcomer.call("wait 0 10000"), UNREACHABLE).expect(UNREACHABLE)
            Requests(sender, receiver, [1, 2]).open().finish(tally)
        requests.close()
        transfer(newcomer, receiver, tally)
        newcomer.quit()
        sender.quit()
        receiver.expect_no_leak()
        receiver.quit()
        tally.report()


@tap.cases_for(fault.MODES)
def sender_is_out_of_descriptors(mode):
    fault.need_ipv6(mode)
    with fault.workers():
        tally = Tally("sender out of descriptors", mode)
        receiver, sender = Worker(mode), Worker(mode)
        requests = Requests(sender, receiver, [0])
        with limited(sender, resource.RLIMIT_NOFILE, lowest_free_descriptor(sender)):
            requests.offer()
            tally.tried += 1
            answer = tally.outcome(sender.call("wait 0 10000"), UNREACHABLE).expect(UNREACHABLE)
            assert "open files" in answer.text, answer.text
        requests.close()
        transfer(sender, receiver, tally)
        receiver.quit()
        sender.expect_no_leak()
        sender.quit()
        tally.report()


@tap.case
def receiver_cannot_map_the_pool_but_read_it():
    with fault.workers():
        tally = Tally("no address space to map a pool", "shm, readable")
        receiver, sender = Worker(fault.SHM), Worker(fault.SHM)
        with limited(receiver, resource.RLIMIT_AS, address_space_bytes(receiver) + (8 << 20)):
            tally.tried += 1
            transfer(sender, receiver, tally)
        sender.quit()
        receiver.expect_no_leak()
        receiver.quit()
        tally.report()


@tap.case
def receiver_can_neither_map_the_pool_nor_read_it():
    with fault.workers():
        tally = Tally("no address space to map a pool", "shm, not readable")
        # What may read every process may read a hidden one too.
        prefix = ("setpriv", "--bounding-set=-sys_ptrace") if os.geteuid() == 0 else ()
        fault.need_programs(*prefix[:1])
        receiver, sender = Worker(fault.SHM, prefix=prefix), Worker(fault.SHM)
        sender.call("hide").expect()
        requests = Requests(sender, receiver)
        with limited(receiver, resource.RLIMIT_AS, address_space_bytes(receiver) + (8 << 20)):
            requests.open().ready().settle()
            tally.tried += 1
            for side in (sender, receiver):
                for answer in side.each("wait", requests.slots, 10000).values():
                    ends = ("KVX_E_TRANSPORT", "KVX_E_MEMORY", "KVX_E_PEER_LOST")
                    tally.outcome(answer, *ends).expect(*ends)
            requests.verify(tally)
        requests.close()
        transfer(sender, receiver, tally)
        sender.quit()
        receiver.expect_no_leak()
        receiver.quit()
        tally.report()


@tap.cases_for(fault.MODES)
def no_memory_may_be_locked(mode):
    """Nothing of these transports needs to."""
    fault.need_ipv6(mode)
    fault.need_programs("prlimit")
    with fault.workers():
        tally = Tally("no locked memory", mode)
        receiver, sender = (Worker(mode, prefix=("prlimit", "--memlock=0")) for _ in range(2))
        tally.tried += 1
        transfer(sender, receiver, tally)
        sender.quit()
        receiver.expect_no_leak()
        receiver.quit()
        tally.report()


tap.main()
