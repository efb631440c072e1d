"""Device memory that ranks of one machine read in place; decided without a GPU."""

from __future__ import annotations

from datetime import timedelta

import pytest
from torch._C._distributed_c10d import HashStore

from dynatrain import DeviceError, _native
from dynatrain.generation.control import Control
from dynatrain.generation.lanes import DEVICE
from dynatrain.generation.members import Members
from stand_in_lanes import alone, connect, maker, only_host_groups, share


def test_ranks_of_one_host_read_each_other_in_place(job):
    connect(job)
    laid_over = share(job, "")
    made = only_host_groups(maker("auto", num_ranks=2), job)
    lane = made.make(alone(), "1")[DEVICE]

    assert lane.name == "cuda_ipc"
    assert lane.transport.is_one_sided
    assert lane.reads_in_place
    assert laid_over == [[0, 1]]


def test_ranks_that_cannot_read_each_other_send_messages(job):
    connect(job)
    share(job, "rank 1 is on another host")
    made = only_host_groups(maker("auto", num_ranks=2), job)
    lane = made.make(alone(), "1")[DEVICE]

    assert lane.name == "nccl"
    assert not lane.reads_in_place


def test_cuda_ipc_that_was_asked_for_is_not_replaced(job):
    connect(job)
    share(job, "rank 1 is on another host")
    made = only_host_groups(maker("cuda_ipc", num_ranks=2), job)
    with pytest.raises(DeviceError, match="rank 1 is on another host"):
        made.make(alone(), "1")


# The probe would have every rank tell the store what it holds, for an answer that all know.
@pytest.mark.parametrize("transport", ["auto", "cuda_ipc"])
def test_ranks_that_are_alone_on_their_machines_do_not_probe(job, transport):
    connect(job)
    job.setattr(_native, "connect_cuda_ipc", pytest.fail)
    job.setattr(Members, "node_of_rank", [0, 1])
    lane = only_host_groups(maker(transport, num_ranks=2), job).make(alone(), "1")[DEVICE]

    assert lane.name == "nccl"
    assert not lane.reads_in_place


class JobControl(Control):
    """This rank's control, and what ranks beside it say of the memory of their machines."""

    def __init__(self, others):
        super().__init__(
            Members.of_ranks("a session", 0, 1, HashStore()), timedelta(seconds=20), "a job"
        )
        self.others = others

    def agree(self, phase, error, value, combine=list):
        assert error is None
        return combine([value, *self.others] if isinstance(value, str) else [value])


def lane_of_machines(job, transport, own, others):
    """The lane of rank 0; ranks 0 and 1 are of one machine, 2 and 3 of another, 4 of a third."""
    connect(job)
    connected = share(job, own)
    job.setattr(Members, "node_of_rank", [0, 0, 1, 1, 2])
    made = only_host_groups(maker(transport, num_ranks=5), job)
    return made.make(JobControl(others), "1")[DEVICE], connected


# Each machine is a group of its own; a rank that is alone on one has nobody to be kept from.
@pytest.mark.parametrize("transport", ["auto", "cuda_ipc"])
def test_ranks_of_several_machines_connect_with_those_of_their_own(job, transport):
    lane, connected = lane_of_machines(job, transport, "", ["", "", "", "no driver"])

    assert lane.name == "cuda_ipc"
    assert lane.reads_in_place
    assert connected == [[0, 1]]


# Ranks that may not read take part in the exchanges of those that may: all must know of them.
def test_ranks_of_a_machine_that_cannot_read_know_that_others_do(job):
    lane, _ = lane_of_machines(job, "auto", "no such memory", ["no such memory", "", "", ""])

    assert lane.name == "cuda_ipc"
    assert lane.reads_in_place
    assert not lane.transport.is_one_sided


def test_what_was_asked_for_is_refused_where_one_machine_cannot_have_it(job):
    with pytest.raises(DeviceError, match="ranks 2-3: no such memory"):
        lane_of_machines(job, "cuda_ipc", "", ["", "no such memory", "no such memory", ""])
