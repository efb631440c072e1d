"""A rank that fails in one lane: its peers may be in another one, and hear of it at once."""

from __future__ import annotations

from dataclasses import replace

import training_jobs as jobs
from dynatrain import TransportError
from dynatrain.adapters.torch.inventory import LiveTensors
from dynatrain.generation.generation import Generation
from dynatrain.generation.lanes import DEVICE, HOST
from sessions import outcome, start


class FailingBehind:
    """An executor that does one thing of the lane's, and raises behind it."""

    def __init__(self, executor, method):
        self.executor, self.method = executor, method

    def __getattr__(self, name):
        if name != self.method:
            return getattr(self.executor, name)

        def fail(*args, **options):
            getattr(self.executor, name)(*args, **options)
            raise TransportError("of the first lane")

        return fail


def switch_over_a_lane_that_fails(rank, world_size, method):
    connect = Generation.connect
    failing = [HOST] if rank == 1 else []

    def connect_both(generation, connection):
        connect(generation, connection)
        generation.maker._connection = f"{connection}/second"
        generation.lanes[DEVICE] = generation.maker._host_lane()
        for name in failing:
            lane = generation.lanes[name]
            failing_one = FailingBehind(lane.executor, method)
            generation.lanes[name] = replace(lane, executor=failing_one)

    Generation.connect = connect_both
    LiveTensors.host_names = lambda live: {name for name in live.tensors if name.endswith("|param")}
    session = start("dp=4")
    jobs.train_step(session.state, session.world, 0)
    before = session.fingerprint()
    failed = outcome(lambda: session.switch("dp=2,tp=2"))
    failing.clear()
    return failed, session.fingerprint() == before, session.switch("dp=2,tp=2").epoch


def check(results):
    assert {kind for (kind, _), *_ in results} == {"TransportError"}
    assert all(intact for _, intact, _ in results)
    assert {epoch for *_, epoch in results} == {1}


# It ended the first lane alone and waited for the others in the next exchange, while they sat in
# the second lane, which it never entered, to the deadline. Here that is ten minutes.
def test_ranks_in_the_second_lane_hear_at_once_of_a_failure_in_the_first(pool):
    results = pool.run(switch_over_a_lane_that_fails, "run", timeout_s=60)
    pool.close()  # the workers' library is patched

    check(results)


def test_ranks_that_agree_in_the_second_lane_hear_at_once_of_a_failure_in_the_first(pool):
    results = pool.run(switch_over_a_lane_that_fails, "agree", timeout_s=60)
    pool.close()  # the workers' library is patched

    check(results)
