"""The main job's model trains the same in every layout: the ground on which switching stands."""

import os
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

EXAMPLES = Path(__file__).parents[2] / "examples"
NUM_STEPS = 5
FOUR_RANKS = ("dp=4", "dp=2,tp=2", "tp=2,pp=2", "dp_replicate=2,dp=2")
MORE_OF_FOUR_RANKS = ("pp=4", "dp=2,pp=2", "tp=4", "dp_replicate=4", "dp_replicate=2,pp=2")


def train(rank, num_ranks, layouts, folder):
    """Train a few steps in each layout and save what this rank knows at the end."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(num_ranks), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    sys.path.insert(0, str(EXAMPLES))
    from torch import distributed as dist
    from torch.distributed.tensor import DTensor

    import dynatrain
    from gpt.job import Job, JobConfig

    store = f"file://{folder}/store{num_ranks}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=num_ranks)
    for layout in layouts:
        job = Job(JobConfig(total_steps=100))
        session = dynatrain.init(
            job.build,
            dynatrain.Layout.parse(layout),
            initialize=job.initialize,
            keep={"data": job.loader},
        )
        results = [
            tuple(job.train_step(session.state, session.world)) for _ in session.steps(NUM_STEPS)
        ]
        parameters = {
            name: parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            for name, parameter in session.state.model.named_parameters()
        }
        whole = {name: tensor.detach().clone() for name, tensor in parameters.items()}
        torch.save((results, whole), f"{folder}/{layout}.{rank}.pt")
        session.close()
    dist.destroy_process_group()


def run(num_ranks, layouts, folder):
    context = mp.spawn(train, (num_ranks, layouts, str(folder)), nprocs=num_ranks, join=False)
    try:
        deadline = time.monotonic() + 240
        while not context.join(timeout=deadline - time.monotonic()):  # raises what a rank raised
            assert time.monotonic() < deadline, "the ranks are stuck"
    finally:
        for process in context.processes:
            process.kill()


def load(folder, layout, num_ranks):
    return [torch.load(f"{folder}/{layout}.{r}.pt", weights_only=False) for r in range(num_ranks)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("layouts")
    run(1, ["dp=1"], path)
    return path


@pytest.fixture(scope="module")
def four_ranks(folder):
    run(4, FOUR_RANKS, folder)
    return folder


def assert_same_training(folder, layout, num_ranks):
    (expected_results, expected), *_ = load(folder, "dp=1", 1)
    seen = set()
    for results, parameters in load(folder, layout, num_ranks):
        for result, reference in zip(results, expected_results, strict=True):
            assert result == pytest.approx(reference, abs=1e-5)  # loss and gradient norm
        for name, parameter in parameters.items():
            torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-5)
        seen |= parameters.keys()
    assert seen == expected.keys()


# A tied weight that comes untied, a gradient counted twice in the norm or a loss averaged over the
# wrong ranks would still train: only a comparison with one process shows it.
@pytest.mark.parametrize("layout", FOUR_RANKS)
def test_five_steps_equal_one_process(four_ranks, layout):
    assert_same_training(four_ranks, layout, 4)


@pytest.mark.long
def test_five_steps_in_more_layouts_equal_one_process(folder):
    run(4, MORE_OF_FOUR_RANKS, folder)
    for layout in MORE_OF_FOUR_RANKS:
        assert_same_training(folder, layout, 4)


# 3 divides none of the weights: every shard is uneven.
def test_five_steps_on_three_ranks_equal_one_process(folder):
    run(3, ["dp=3"], folder)
    assert_same_training(folder, "dp=3", 3)


# All three kinds of parallelism at once: a shard of a shard of a stage.
@pytest.mark.long
@pytest.mark.parametrize("layout", ["dp=2,tp=2,pp=2"])
def test_five_steps_on_eight_ranks_equal_one_process(folder, layout):
    run(8, [layout], folder)
    assert_same_training(folder, layout, 8)
