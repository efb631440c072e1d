"""Calls that all ranks make right after a loop in which some of them idled."""

from __future__ import annotations

from sessions import start


def call_after_loops(rank, world_size):
    session = start("dp=2")
    prints, steps = set(), []
    for total in range(20):
        for step in session.steps(total + 2):
            if step == total:
                break
        prints.add(session.fingerprint())
        steps.append(session.step)
    return len(prints), steps, session.switch("dp=4").step


# The idle rank attended the call in its loop and made it again, alone, until the deadline; where it
# did not, it named another number of steps, and was refused for it.
def test_call_after_a_loop_meets_ranks_that_idled_in_it(pool):
    for num_prints, steps, step_of_switch in pool.run(call_after_loops):
        assert num_prints == 1
        assert steps == sorted(steps)
        assert steps[-1] == step_of_switch == 19  # no step in which the loop was left has trained
