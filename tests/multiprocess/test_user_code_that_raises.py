"""What build, a kept object or an extra raises on one rank ends the call alike on all, at once."""

from __future__ import annotations

import pytest
import torch.distributed as dist

import dynatrain
import training_jobs as jobs
from dynatrain import TrainState
from held_values import Face
from hostile_objects import UnspeakableError
from sessions import outcome, start, works


class Odd:
    """A kept object or Stateful that raises what is no error of the library, on one rank."""

    def __init__(self, moment):
        self.moment = moment

    def maybe(self, moment):
        if moment == self.moment and dist.get_rank() == 1:
            raise KeyError(f"odd at {moment}")

    def check_layout(self, layout):
        self.maybe("check_layout")

    def state_dict(self):
        self.maybe("state_dict")
        return {}

    def load_state_dict(self, state):
        self.maybe("load_state_dict")


def fail_in_user_code(rank, world_size, moment):
    odd, on = Odd(None), [False]

    def build(world):
        if on[0]:
            odd.maybe("build")
        state = jobs.build(world)
        extra = {"odd": Face(odd)}
        return TrainState(state.model, state.optimizer, state.scheduler, extra=extra)

    session = start("dp=4", build, keep={"odd": odd})
    before = jobs.whole_state(session.state)
    odd.moment, on[0] = moment, True
    ended = outcome(lambda: session.switch("dp=2,tp=2"))
    odd.moment = None
    same = jobs.differences(before, jobs.whole_state(session.state)) == []
    return ended, same, session.switch("dp=2,tp=2").epoch


# `except dynatrain.Error` ended the one rank and kept the others, which then waited for it.
@pytest.mark.parametrize("moment", ["build", "check_layout", "state_dict", "load_state_dict"])
def test_what_user_code_raises_on_one_rank_is_of_the_family_on_all(pool, moment):
    for (kind, text), same, epoch in pool.run(fail_in_user_code, moment):
        assert (kind, same, epoch) == ("LayoutError", True, 1)
        assert f"odd at {moment}" in text
        assert "intact" in text


def fail_to_start(rank, world_size, moment):
    calls = []

    def build(world):
        calls.append(None)
        if rank == 1 and moment == ("dry", "real")[len(calls) - 1 > 0]:
            raise RuntimeError("the first build")
        return jobs.build(world)

    def initialize(state, world):
        if rank == 1 and moment == "initialize":
            raise AttributeError("the first build")
        jobs.initialize(state, world)

    return outcome(lambda: start("dp=4", build, initialize=initialize)), works()


@pytest.mark.parametrize("moment", ["dry", "real", "initialize"])
def test_what_raises_in_init_on_one_rank_ends_it_on_all(pool, moment):
    for rank, ((kind, text), again) in enumerate(pool.run(fail_to_start, moment)):
        assert (kind, again) == ("LayoutError", True)
        assert "the first build" in text
        # It was called an error of build, shown above the error of a rank that shows none.
        assert ("initialize raised" in text) == (moment == "initialize")
        assert rank == 1 or moment != "initialize" or "what the output of rank 1 shows" in text


def run_out_of_memory(rank, world_size, text):
    session = start()
    adapter = session._part.adapter
    materialize = adapter.materialize

    def short(*args, **how):
        if rank == 3:
            raise (MemoryError() if text is None else RuntimeError(text))
        return materialize(*args, **how)

    adapter.materialize = short
    with pytest.raises(dynatrain.BudgetError) as refused:
        session.switch("dp=2,tp=2")
    adapter.materialize = materialize
    error = refused.value
    return error.required_bytes, str(error), session.switch("dp=2,tp=2").epoch


# A raw error of the allocator on one rank: which of four processes, how much, and what would do?
@pytest.mark.parametrize("text", [None, "DefaultCPUAllocator: can't allocate memory: you tried"])
def test_memory_that_cannot_be_had_is_a_budget_error_that_says_how_much(pool, text):
    for required, message, epoch in pool.run(run_out_of_memory, text):
        assert epoch == 1
        assert required > 0
        assert f"free {required} bytes" in message
        assert "rank 3" in message


def say_nothing(rank, world_size, moment):
    at = [None]

    def maybe(now):
        if now == at[0] and rank == 1:
            raise UnspeakableError

    class Kept:
        def check_layout(self, layout):
            maybe("check_layout")

        def state_dict(self):
            maybe("state_dict")
            return {}

        def load_state_dict(self, state):
            pass

    def build(world):
        maybe("build")
        return jobs.build(world)

    def initialize(state, world):
        maybe("initialize")
        jobs.initialize(state, world)

    hooks = {"initialize": initialize, "groups": lambda layout: maybe("groups")}
    if moment == "initialize":
        at[0] = moment
        ended = outcome(lambda: start("dp=2", build, **hooks))
        at[0] = None
        return ended, start("dp=2", build, **hooks).switch("tp=2").epoch
    session = start("dp=2", build, keep={"kept": Kept()}, **hooks)
    at[0] = moment
    ended = outcome(lambda: session.switch("dp=3" if moment == "state_dict" else "tp=2"))
    at[0] = None
    return ended, session.switch("tp=2").epoch


# The text of the refusal was made outside of what all ranks agree on: the others waited for it.
@pytest.mark.parametrize("moment", ["initialize", "groups", "check_layout", "state_dict", "build"])
def test_error_that_cannot_be_shown_is_of_the_family_on_all(pool, moment):
    for (kind, text), epoch in pool.run(say_nothing, moment, world_size=3, timeout_s=20):
        assert (kind, epoch) == ("LayoutError", 1)
        assert moment == "build" or "UnspeakableError" in text
