"""A switch whose tensors lie on a GPU: the same bits as the same switch on the CPU.

All ranks share the one GPU. The job on the CPU is the oracle, and itself held against torch's own
gathered tensors elsewhere; here every shard is compared on the host, byte by byte.
"""

from __future__ import annotations

import os

import pytest
import torch

import dynatrain
import training_jobs as jobs

LAYOUTS = ("dp=4", "dp=2,tp=2", "tp=4", "dp=3", "dp=4")
GPU = "cuda:0"
RUN_S = 45
#: What NCCL's source says lets several ranks share a GPU; which works is what a run shows.
SHARING = {
    "multi_rank_gpu": {"NCCL_MULTI_RANK_GPU_ENABLE": "1"},
    "host_ids": {"NCCL_NET": "Socket", "NCCL_HOSTID": "host{rank}"},
}


def fill(state, world):
    """Weights by name, and moments on which no two devices disagree."""
    jobs.initialize(state, world)
    with torch.no_grad():
        for param in state.model.parameters():
            moments = {
                "exp_avg": param.detach() * 0.5,
                "exp_avg_sq": param.detach() * param.detach(),
            }
            state.optimizer.state[param] = {"step": torch.tensor(3.0), **moments}


def shards(session):
    """This rank's bytes of every tensor, on the host, by name; empty when it idles."""
    if not session.active:
        return {}
    state = session.state
    tensors = dict(state.model.named_parameters()) | dict(state.model.named_buffers())
    for name, param in state.model.named_parameters():
        tensors |= {f"{name}.{slot}": value for slot, value in state.optimizer.state[param].items()}
    return {
        name: getattr(tensor.detach(), "_local_tensor", tensor.detach()).cpu().clone()
        for name, tensor in tensors.items()
    }


def start(device, layout="dp=4", **options):
    return dynatrain.init(
        jobs.build,
        layout,
        initialize=fill,
        device=device,
        timeout_s=30,
        verify=("sums", "fingerprint", "replicas"),
        **options,
    )


def switch_through(device, layouts, options):
    """What each layout left on this rank, and the fingerprints of all switches."""
    session = start(device, layouts[0], **options)
    seen, fingerprints = [shards(session)], [session.fingerprint()]
    for layout in layouts[1:]:
        report = session.switch(layout)
        assert report.bytes_moved == report.lower_bound_bytes
        seen.append(shards(session))
        fingerprints += [report.fingerprint_before, report.fingerprint_after]
    session.close()
    return seen, fingerprints


def on_both(rank, world_size, layouts, options, environment):
    os.environ.update({name: text.format(rank=rank) for name, text in environment.items()})
    ours, our_fingerprints = switch_through(GPU, layouts, options)
    theirs, fingerprints = switch_through("cpu", layouts, {})
    differing = [
        (layout, sorted(jobs.differences(a, b)))
        for layout, a, b in zip(layouts, ours, theirs, strict=True)
        if jobs.differences(a, b)
    ]
    return differing, set(our_fingerprints) == set(fingerprints), len(set(fingerprints))


def on_both_in_expandable_segments(rank, world_size, layouts, options):
    """Set when it runs: what the environment says was read before the process was forked."""
    torch.cuda.memory._set_allocator_settings("expandable_segments:True")
    results = on_both(rank, world_size, layouts, options, {})
    segments = torch.cuda.memory_snapshot()
    return *results, bool(segments) and all(segment["is_expandable"] for segment in segments)


def run_fresh(pool, *args, world_size=4):
    """In new processes: what NCCL and torch read of the environment, they read once."""
    pool.close()
    try:
        return pool.run(*args, world_size=world_size, timeout_s=RUN_S)
    finally:
        pool.close()


# The path of every GPU job without NCCL: pinned staging, Gloo, the copier's streams.
def test_through_the_host_every_shard_arrives(pool):
    results = pool.run(on_both, LAYOUTS, {"transport": "c10d"}, {}, timeout_s=100)

    assert results == [([], True, 1)] * 4


# One strided pass reads the peers' tensors where they lie; no byte may come from before a switch.
def test_read_in_place_every_shard_arrives(pool):
    results = run_fresh(pool, on_both, LAYOUTS, {"transport": "cuda_ipc"}, {})

    assert results == [([], True, 1)] * 4


# torch's expandable segments are mapped piecewise; no address may be taken for a plain allocation.
@pytest.mark.parametrize("transport", ["cuda_ipc", "c10d"])
def test_expandable_segments_are_moved_too(pool, transport):
    options = {"transport": transport}
    results = run_fresh(pool, on_both_in_expandable_segments, LAYOUTS[:3], options)

    assert results == [([], True, 1, True)] * 4


@pytest.fixture(scope="module")
def refusals():
    """Why a way did not work, by way: four ranks need not try what failed between two."""
    return {}


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("way", SHARING)
def test_nccl_between_ranks_that_share_a_gpu(pool, refusals, way, world_size):
    if way in refusals:
        pytest.skip(refusals[way])
    layouts = LAYOUTS if world_size == 4 else ("dp=2", "tp=2", "dp=1", "dp=2")
    try:
        results = run_fresh(
            pool, on_both, layouts, {"transport": "nccl"}, SHARING[way], world_size=world_size
        )
    except AssertionError as error:
        refusals[way] = f"NCCL does not share a GPU by {SHARING[way]}"
        if "transport='nccl' cannot be had" in str(error):
            lines = [line for line in str(error).splitlines() if line.startswith("  rank 0: ")]
            pytest.skip(f"{refusals[way]}: {lines[:1]}")
        raise

    assert results == [([], True, 1)] * world_size


def one_rank(rank, world_size):
    session = start(GPU, "dp=1", transport="nccl")
    before = shards(session)
    report = session.switch("dp=1")
    same = jobs.differences(before, shards(session)) == []
    session.close()
    return same, report.bytes_moved, report.fingerprint_before == report.fingerprint_after


def test_a_world_of_one_has_a_communicator_of_its_own(pool):
    assert pool.run(one_rank, world_size=1) == [(True, 0, True)]


def switch_behind_a_busy_stream(rank, world_size):
    """The optimizer's last write is still queued when the switch is called."""
    session = start(GPU, "dp=2", transport="c10d")
    session.prepare("tp=2")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        torch.cuda._sleep(2_000_000_000)  # about a second
        for param in session.state.model.parameters():
            param.mul_(2)
        busy = not stream.query()
        session.switch("tp=2")
    doubled = shards(session)
    session.close()

    twin = start("cpu", "dp=2")
    with torch.no_grad():
        for param in twin.state.model.parameters():
            param.mul_(2)
    twin.switch("tp=2")
    names = [name for name, _ in twin.state.model.named_parameters()]
    expected = shards(twin)
    twin.close()
    return busy, [name for name in names if not torch.equal(doubled[name], expected[name])]


# Without the order, the old weights would travel: the copier's streams wait for no other stream.
def test_the_switch_comes_after_what_the_callers_stream_still_writes(pool):
    assert pool.run(switch_behind_a_busy_stream, world_size=2) == [(True, [])] * 2


def count_memory(rank, world_size):
    session = start(GPU, "dp=2", transport="c10d", staging_budget_bytes=64 << 10)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    report = session.switch("tp=2")
    peak = torch.cuda.max_memory_allocated() - before
    num_tensors = len(shards(session))
    session.close()
    return peak, report.extra_peak_bytes, num_tensors


# Staging is the library's own, so torch sees the target alone; its blocks are multiples of 512.
def test_the_target_takes_no_more_memory_than_was_predicted(pool):
    for peak, predicted, num_tensors in pool.run(count_memory, world_size=2):
        assert 0 < peak <= predicted + 512 * num_tensors


def profile_switch(rank, world_size):
    session = start(GPU, "dp=2", transport="c10d")
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        session.switch("tp=2")
        torch.cuda.synchronize()
    names = {event.name for event in profile.events()}
    session.close()
    return sorted(names)


def test_torchs_profiler_shows_phases_and_kernels(pool):
    for names in pool.run(profile_switch, world_size=2):
        assert {"dynatrain::build", "dynatrain::plan", "dynatrain::transfer"} <= set(names)
        assert any("copy_boxes" in name for name in names)
