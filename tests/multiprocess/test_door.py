"""What ranks bring to a public call: refused or failed on one, it ends alike and at once on all."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

import dynatrain
import training_jobs as jobs
from dynatrain import Layout, LayoutError, TrainState

TIMEOUT_S = 8


def outcome(call):
    """Kind and text of the error that `call` ends with, and whether it came before the deadline."""
    begin = time.monotonic()
    try:
        call()
    except dynatrain.Error as error:
        return type(error).__name__, str(error), time.monotonic() - begin < TIMEOUT_S / 2
    return "done", "", True


def start(layout="dp=4", build=jobs.build, **options):
    settings = {"initialize": jobs.initialize, "timeout_s": TIMEOUT_S, **options}
    return dynatrain.init(build, layout, **settings)


def works(layout="dp=4"):
    """Whether the ranks can still start a session and switch it."""
    return start(layout).switch(layout).epoch == 1


# --- arguments -----------------------------------------------------------------------------------

OTHERS = {
    "layout": "dp=2,tp=2",
    "verify": ("fingerprint",),
    "staging_budget_bytes": 1 << 20,
    "seed": 1,
    "transport": "c10d",
    "timeout_s": TIMEOUT_S + 1,
}


def start_differently(rank, world_size, name):
    options = {"layout": "dp=4"} | ({name: OTHERS[name]} if rank == 2 else {})
    return outcome(lambda: start(**options)), works()


# A first layout that differed hung init; another verify ended one rank with a TypeError, the other
# at the deadline.
@pytest.mark.parametrize("name", OTHERS)
def test_argument_that_differs_between_ranks_is_refused_on_all_at_once(pool, name):
    for (kind, text, at_once), again in pool.run(start_differently, name):
        assert (kind, at_once, again) == ("LayoutError", True, True)
        assert f"different {name}" in text
        assert "rank 2" in text


WRONG = {
    "timeout": ({"timeout_s": float("nan")}, "LayoutError"),
    "layout": ({"layout": "dp=0"}, "LayoutError"),
    "device": ({"device": "xyz"}, "DeviceError"),
    "too large": ({"layout": "dp=64"}, "LayoutError"),
}


def start_wrongly(rank, world_size, name):
    options = {"layout": "dp=4"} | (WRONG[name][0] if rank == 1 else {})
    return outcome(lambda: start(**options)), works()


# The ranks whose arguments are right would wait for the one that raised.
@pytest.mark.parametrize("name", WRONG)
def test_wrong_argument_of_one_rank_is_refused_on_all_at_once(pool, name):
    for (kind, _, at_once), again in pool.run(start_wrongly, name):
        assert (kind, at_once, again) == (WRONG[name][1], True, True)


def rename_on_some(rank, world_size):
    session = start()
    names = {"head.weight": "top.weight"} if rank < 2 else None
    first = outcome(lambda: session.switch("dp=4", names=names))
    return first, session.switch("dp=4").epoch


def test_names_that_differ_between_ranks_are_refused(pool):
    for (kind, text, at_once), epoch in pool.run(rename_on_some):
        assert (kind, at_once, epoch) == ("LayoutError", True, 1)
        assert "top.weight" in text


# --- trouble in the user's code ------------------------------------------------------------------


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


class Face:
    """An object of one build before one of all builds, into which nothing would be loaded."""

    def __init__(self, behind):
        self.state_dict = behind.state_dict
        self.load_state_dict = behind.load_state_dict


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
    for (kind, text, at_once), same, epoch in pool.run(fail_in_user_code, moment):
        assert (kind, at_once, same, epoch) == ("LayoutError", True, True, 1)
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
    for (kind, text, at_once), again in pool.run(fail_to_start, moment):
        assert (kind, at_once, again) == ("LayoutError", True, True)
        assert "the first build" in text


def run_out_of_memory(rank, world_size, text):
    session = start()
    adapter = session._adapter
    materialize = adapter.materialize

    def short(*args):
        if rank == 3:
            raise (MemoryError() if text is None else RuntimeError(text))
        return materialize(*args)

    adapter.materialize = short
    begin = time.monotonic()
    with pytest.raises(dynatrain.BudgetError) as refused:
        session.switch("dp=2,tp=2")
    at_once = time.monotonic() - begin < TIMEOUT_S / 2
    adapter.materialize = materialize
    error = refused.value
    return error.required_bytes, str(error), at_once, session.switch("dp=2,tp=2").epoch


# A raw error of the allocator on one rank: which of four processes, how much, and what would do?
@pytest.mark.parametrize("text", [None, "DefaultCPUAllocator: can't allocate memory: you tried"])
def test_memory_that_cannot_be_had_is_a_budget_error_that_says_how_much(pool, text):
    for required, message, at_once, epoch in pool.run(run_out_of_memory, text):
        assert (at_once, epoch) == (True, 1)
        assert required > 0
        assert f"free {required} bytes" in message
        assert "rank 3" in message


# --- groups of the framework ---------------------------------------------------------------------


def make_groups(layout):
    """A framework's own mesh, as torchtitan makes it: all ranks, then dimensions of it."""
    made.append(str(layout))
    dims = {"replicate": layout.dp_replicate, "shard": layout.dp_shard, "tensor": layout.tp}
    return init_device_mesh("cpu", tuple(dims.values()), mesh_dim_names=tuple(dims))


made: list[str] = []


def build_on_groups(world):
    model = jobs.Mlp()
    mesh = world.groups
    for block in model.blocks:
        fully_shard(block, mesh=mesh["shard"])
    fully_shard(model, mesh=mesh["shard"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
    return TrainState(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))


def train_on_groups(rank, world_size):
    made.clear()
    session = start("dp=2", build_on_groups, groups=make_groups, verify=("fingerprint",))
    same = []
    session.on_switch(
        lambda report: same.append(report.fingerprint_before == report.fingerprint_after)
    )
    for step in session.steps(4):
        jobs.train_step(session.state, session.world, step)
        session.switch(("dp=4", "dp=3", "dp=2", "dp=4")[step])
    return made, same


# Groups need every rank of the job; a build runs only on the ranks that its layout has.
def test_groups_of_a_framework_are_made_on_all_ranks_once_per_layout(pool):
    assert pool.run(train_on_groups) == [(["dp=2", "dp=4", "dp=3"], [True] * 4)] * 4


def new_group(world):
    dist.new_group(list(range(world.world_size - 1)))


def subgroups(world):
    dist.new_subgroups(1)


def split(world):
    dist.split_group(split_ranks=[[0], [1]])


def mesh(world):
    DeviceMesh("cpu", torch.arange(world.world_size, device="cpu"))


def framework_mesh(world):
    init_device_mesh("cpu", (world.world_size, 1), mesh_dim_names=("a", "b"))


def flattened(world):
    world.mesh_over("dp_shard", "tp")._flatten("both")


MAKERS = [new_group, subgroups, split, mesh, framework_mesh, flattened]


def make_groups_in_build(rank, world_size, make):
    on = [False]

    def build(world):
        if on[0]:
            make(world)
        return jobs.build(world)

    session = start("dp=4", build)
    on[0] = True
    ended = [outcome(lambda call=call: call("dp=3")) for call in (session.check, session.switch)]
    on[0] = False
    return ended, session.switch("dp=3").epoch


# The rank that idles in the target runs no build: the others waited for it beyond any deadline.
@pytest.mark.parametrize("make", MAKERS)
def test_groups_made_in_build_are_refused_by_name_at_once(pool, make):
    for ended, epoch in pool.run(make_groups_in_build, make):
        assert epoch == 1
        for kind, text, at_once in ended:
            assert (kind, at_once) == ("LayoutError", True)
            assert "process group" in text
            assert "groups=" in text


def fail_to_make_groups(rank, world_size):
    def groups(layout):
        mesh = make_groups(layout)
        if rank == 2 and layout.tp > 1:
            raise KeyError("no such group")
        return mesh

    session = start("dp=4", groups=groups)
    ended = [outcome(lambda: session.switch("dp=2,tp=2")) for _ in range(2)]
    return ended, session.switch("dp=4").epoch


# What one rank lacks of a layout no rank may keep: the next call would wait for it there.
def test_hook_that_raises_on_one_rank_refuses_the_switch_on_all(pool):
    for ended, epoch in pool.run(fail_to_make_groups):
        assert epoch == 1
        for kind, text, _ in ended:
            assert kind == "LayoutError"
            assert "no such group" in text


# --- axes of a world -----------------------------------------------------------------------------


def read_axes(rank, world_size, layout):
    """Ranks of every dimension, and a sum over each: by its group, whatever its size."""
    world = start(layout, build_nothing, initialize=None).world
    found = {}
    for dims in (
        ("pp", "dp_replicate", "fsdp", "tp"),
        ("pp", "batch", "cp", "tp"),
        ("loss",),
        ("pp", "dp_replicate", "efsdp", "ep", "etp"),
    ):
        mesh = world.mesh_over(*dims)
        assert mesh is world.mesh_over(*dims)
        assert mesh.mesh_dim_names == dims
        for dim in dims:
            group = mesh[dim].get_group()
            total = torch.tensor([rank])
            dist.all_reduce(total, group=group)
            ranks = dist.get_process_group_ranks(group)
            assert int(total) == sum(ranks)
            assert mesh.get_local_rank(dim) == world.coordinate(dim) == ranks.index(rank)
            assert mesh[dim].mesh.tolist() == ranks
            assert world.size(dim) == len(ranks)
            found[dim] = ranks
    named = world.mesh_over(data=("dp_replicate", "dp_shard"), model="tp")
    assert named["data"].mesh.tolist() == found["batch"]
    whole = distribute_tensor(torch.arange(8.0), world.mesh_over("cp"), [Replicate()])
    assert whole.full_tensor().sum() == 28
    return found


def build_nothing(world):
    return TrainState(nn.Linear(2, 2))


# As torchtitan's ParallelDims flattens its axes; written out by hand.
EXPECTED = {
    "dp=2,tp=2": [
        {"fsdp": [0, 2], "tp": [0, 1], "efsdp": [0, 1, 2, 3], "ep": [0], "loss": [0, 2]},
        {"fsdp": [1, 3], "tp": [0, 1], "efsdp": [0, 1, 2, 3], "ep": [1], "loss": [1, 3]},
    ],
    "dp_replicate=2,dp=2,ep=2": [
        {"fsdp": [0, 1], "dp_replicate": [0, 2], "batch": [0, 1, 2, 3], "ep": [0, 1], "efsdp": [0]},
        {"fsdp": [0, 1], "dp_replicate": [1, 3], "batch": [0, 1, 2, 3], "ep": [0, 1], "efsdp": [1]},
    ],
    "pp=2,cp=2": [
        {"pp": [0, 2], "cp": [0, 1], "fsdp": [0, 1], "loss": [0, 1], "batch": [0], "efsdp": [0, 1]},
        {"pp": [1, 3], "cp": [0, 1], "fsdp": [0, 1], "loss": [0, 1], "batch": [1], "efsdp": [0, 1]},
    ],
}


# Frameworks ask for every axis by name, and for a group of it, also where it has one rank.
@pytest.mark.parametrize("layout", EXPECTED)
def test_world_hands_out_every_axis_under_the_names_of_frameworks(pool, layout):
    results = pool.run(read_axes, layout)

    for rank, expected in enumerate(EXPECTED[layout]):
        assert {name: results[rank][name] for name in expected} == expected


def build_on_mesh_over(world):
    """FSDP inside TP on slices of one mesh, whatever the sizes."""
    model = jobs.Mlp()
    mesh = world.mesh_over("dp_replicate", "fsdp", "tp")
    plan = {"up": jobs.ColwiseParallel(), "down": jobs.RowwiseParallel()}
    for block in model.blocks:
        jobs.parallelize_module(block, mesh["tp"], plan)
        fully_shard(block, mesh=mesh["dp_replicate", "fsdp"])
    fully_shard(model, mesh=mesh["dp_replicate", "fsdp"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
    return TrainState(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))


def switch_on_mesh_over(rank, world_size):
    session = start("dp=2,tp=2", build_on_mesh_over)
    found = []
    for step, layout in enumerate(("dp=4", "dp_replicate=2,dp=2", "tp=4", "dp=2,tp=2")):
        jobs.train_step(session.state, session.world, step)
        before = session.fingerprint()
        session.switch(layout)
        found.append(before == session.fingerprint())
    return found


def test_models_on_meshes_of_named_axes_switch(pool):
    assert pool.run(switch_on_mesh_over) == [[True] * 4] * 4


# --- DTensor's cache -----------------------------------------------------------------------------


def build_with_product(world):
    model = nn.Linear(8, 8, bias=False)
    fully_shard(model, mesh=world.mesh)
    with torch.no_grad():
        assert (model.weight * 2).device_mesh is world.mesh
    return TrainState(model)


def fill(state, world):
    with torch.no_grad():
        state.model.weight._local_tensor.fill_(world.rank)


def meshes_of_products(rank, world_size):
    session = start("dp=4", build_with_product, initialize=fill)

    def on_own_mesh():
        weight = session.state.model.weight
        assert isinstance(weight, DTensor)
        with torch.no_grad():
            return (weight * 2).device_mesh is session.world.mesh

    found = [on_own_mesh()]
    session.prepare("dp=4,ep=2")
    found.append(on_own_mesh())
    session.switch("dp=4,ep=2")
    found.append(on_own_mesh())
    session.switch(Layout(dp=4))
    found.append(on_own_mesh())
    session = start("dp=4", build_with_product, initialize=fill)
    return [*found, on_own_mesh()]


# dp=4 and dp=4,ep=2 have equal dense meshes, and the cache tells meshes apart by equality.
def test_layouts_with_equal_dense_meshes_stay_apart(pool):
    assert pool.run(meshes_of_products) == [[True] * 5] * 4


# --- a trial -------------------------------------------------------------------------------------


def try_layouts(rank, world_size):
    session = start("dp=3", memory_budget_bytes=1 << 20)
    for step in session.steps(1):
        jobs.train_step(session.state, session.world, step)
        before = jobs.whole_state(session.state)
        needed = session.check("dp=2,tp=2")
        short = replace(session._engine.options, memory_budget_bytes=needed - 1)
        session._engine.options = short
        kinds = [outcome(lambda to=to: session.check(to))[0] for to in ("dp=2,tp=2", "dp=8")]
        return needed > 0, kinds, jobs.differences(before, jobs.whole_state(session.state))


# Ranks that idle take part: a layout that would need them is the one to be tried.
def test_a_check_says_what_a_switch_would_while_a_rank_idles(pool):
    *active, idle = pool.run(try_layouts)

    assert active == [(True, ["BudgetError", "LayoutError"], [])] * 3
    assert idle is None


def refuse_twice(rank, world_size):
    session = start()
    return [outcome(lambda: session.check("dp=2,tp=2"))[0], session.check("dp=4")]


def test_a_check_of_the_present_layout_needs_no_memory_but_staging(pool):
    answers = pool.run(refuse_twice)

    assert {kind for kind, _ in answers} == {"done"}
    assert len({needed for _, needed in answers}) == 1


def late_refusal(rank, world_size):
    with pytest.raises(LayoutError, match="masks"):
        start("dp=2", build_with_loose_tensor, initialize=None)
    return True


def build_with_loose_tensor(world):
    model = jobs.Mlp()
    model.masks = [torch.ones(3)]
    return TrainState(model)


# What build cannot do at a switch would show after days.
def test_build_that_cannot_be_switched_is_refused_by_init(pool):
    assert pool.run(late_refusal, world_size=2) == [True, True]
