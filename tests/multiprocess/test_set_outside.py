"""What one rank's script sets outside of build is refused on all, wherever its tensors go."""

from __future__ import annotations

import pytest

import training_jobs as jobs
from sessions import outcome, start


def nothing(*args):
    """A hook."""


def hook(state):
    handle = state.model.head.register_forward_hook(nothing)
    return handle.remove


def freeze(state):
    state.model.head.bias.requires_grad_(False)
    return lambda: state.model.head.bias.requires_grad_(True)


def set_on_one_rank(rank, world_size, change, prepared):
    session = start("dp=4")
    if prepared:
        session.prepare("dp=2,tp=1")
    jobs.train_step(session.state, session.world, 0)
    undo = change(session.state) if rank == 3 else list
    refusal = outcome(lambda: session.switch("dp=2,tp=1"))
    undo()  # ranks that freeze other parameters cannot train together
    jobs.train_step(session.state, session.world, 1)
    return refusal, session.switch("dp=2,tp=1").epoch


# The rank idles in the target: it has nothing there to hold its hooks against.
@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(
    ("change", "words"),
    [(hook, "'head' by register_forward_hook()"), (freeze, "'head.bias' has requires_grad=False")],
)
def test_what_a_rank_sets_that_idles_in_the_target_is_refused_on_all(pool, change, words, prepared):
    for (kind, text), epoch in pool.run(set_on_one_rank, change, prepared):
        assert kind == "LayoutError"
        assert words in text
        assert "intact" in text
        assert epoch == 1
