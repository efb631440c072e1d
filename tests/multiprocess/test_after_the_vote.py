"""A rank that fails after the vote: it ends, it knows why, and the others train on."""

from __future__ import annotations

from dynatrain import InternalError
from sessions import start


def fail_after_the_vote(rank, world_size, failing):
    session = start("dp=3", timeout_s=8)  # the others wait for its numbers as long
    if rank == failing:

        def short(*args):
            raise MemoryError("no room")

        session._part.adapter.continue_streams = short
    seen = []
    try:
        for step in session.steps(3):
            seen.append((step, str(session.layout)))
            if step == 0:
                session.switch("dp=4")
    except InternalError as error:
        return "the switch is done" in str(error), str(session.layout), seen
    return None, str(session.layout), seen


# A rank that idled logged the failure and went on, with random streams that were not its own.
def test_rank_that_fails_after_the_vote_ends_also_when_it_idled(pool):
    for failing in (1, 3):
        for rank, (told, layout, seen) in enumerate(pool.run(fail_after_the_vote, failing)):
            assert layout == "dp=4"
            if rank == failing:
                assert told is True
            else:
                assert told is None
                assert seen[-2:] == [(1, "dp=4"), (2, "dp=4")]


def miss_the_vote(rank, world_size):
    session = start("dp=3", timeout_s=8)
    if rank == 3:
        meet, moments = session._part.generation.meeting.meet, []

        def short_at_the_vote(*brought, **told):
            met = meet(*brought, **told)
            moments.append(met.name)
            if len(moments) == 2:
                raise MemoryError("no room")
            return met

        session._part.generation.meeting.meet = short_at_the_vote
    try:
        for step in session.steps(2):
            if step == 0:
                session.switch("dp=4")
    except InternalError as error:
        return "could not learn how the vote ended" in str(error), str(session.layout)
    return None, str(session.layout)


# It logged that, and idled on in the world that the others had left.
def test_idle_rank_that_cannot_read_the_vote_ends(pool):
    assert pool.run(miss_the_vote) == [(None, "dp=4")] * 3 + [(True, "dp=3")]
