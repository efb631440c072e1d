"""`session.check` refuses whatever the switch would refuse before anything moves."""

from __future__ import annotations

import pytest
import torch

import training_jobs as jobs
from dynatrain import BudgetError, LayoutError
from sessions import outcome, start


def ended(call, layout):
    """Kind and first line of the error that a call ends with."""
    kind, text = outcome(lambda: call(layout))
    return kind, text.split("\n")[0]


def corrupt_a_replica(rank, world_size, verify):
    session = start("dp_replicate=2,dp=2", verify=verify)
    jobs.train_step(session.state, session.world, 0)
    if rank == 3:
        with torch.no_grad():
            session.state.model.head.weight._local_tensor.view(-1)[2] += 1e-3
    return ended(session.check, "dp=4"), ended(session.switch, "dp=4")


# A night's plan that was checked in the evening would fail on the replica at its first switch.
def test_check_compares_replicas_as_the_switch_does(pool):
    for checked, switched in pool.run(corrupt_a_replica, ("replicas",)):
        assert checked == switched
        assert checked[0] == "LayoutError"
        assert "replicas differ" in checked[1]
    for checked, switched in pool.run(corrupt_a_replica, ("sums",)):
        assert (checked[0], switched[0]) == ("done", "done")


class Kept:
    """A kept object that refuses a layout, or cannot say its state, on one rank."""

    def __init__(self, how):
        self.how = how

    def check_layout(self, layout):
        if self.how == "check_layout" and layout.world_size > 2:
            raise BudgetError("no room for the cache", 30, 20)

    def state_dict(self):
        if self.how == "state_dict":
            raise KeyError("the state is elsewhere")
        return {}

    def load_state_dict(self, state):
        pass


def keep_what_refuses(rank, world_size, how):
    refusing = how if rank == 1 else None
    session = start("dp=2", keep={"cache": Kept(refusing)})
    if not session.active:
        list(session.steps(1))
        return None
    for _ in session.steps(1):
        checked = ended(session.check, "dp=4")
        switched = ended(session.switch, "dp=4")
    return checked, switched, str(session.layout)


# Idle ranks catch up by a kept object's state: what cannot be read refuses the switch.
@pytest.mark.parametrize("how", ["check_layout", "state_dict"])
def test_check_asks_kept_objects_as_the_switch_does(pool, how):
    kind = {"check_layout": BudgetError, "state_dict": LayoutError}[how].__name__
    for result in pool.run(keep_what_refuses, how)[:2]:
        checked, switched, layout = result
        assert checked == switched
        assert (checked[0], layout) == (kind, "dp=2")
