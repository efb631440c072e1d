"""The life of a session: preparing, requesting, idling, budgets, memory."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

import dynatrain
import training_jobs as jobs
from dynatrain import BudgetError, LayoutError, StaleStateError
from process_memory import resident_bytes
from sessions import outcome


def start(layout, **options):
    return dynatrain.init(
        jobs.build, layout, initialize=jobs.initialize, **{"timeout_s": 20, **options}
    )


def step_of(session, step):
    jobs.train_step(session.state, session.world, step)


def request_a_switch(rank, world_size):
    session = start("dp=4")
    reports, future, layouts = [], None, []
    session.on_switch(reports.append)
    for step in session.steps(4):
        layouts.append((step, str(session.layout)))
        step_of(session, step)
        if step == 1:
            future = session.request("dp=2,tp=2")
            assert not future.done()
            with pytest.raises(LayoutError, match="already requested"):
                session.request("tp=4")
    refused = None
    for step in session.steps(6):
        step_of(session, step)
        if step == 4:
            refused = session.request("tp=4")
            for param in session.state.model.parameters():
                param.grad = torch.zeros_like(param)
    return layouts, future.result(0) is reports[0], len(reports), str(refused.exception(0))


# A request is for code that cannot block in the middle of a step, such as a signal's handler.
def test_request_switches_at_the_next_boundary_and_its_future_tells(pool):
    for layouts, same_report, num_reports, refused in pool.run(request_a_switch):
        assert layouts == [(0, "dp=4"), (1, "dp=4"), (2, "dp=2,tp=2"), (3, "dp=2,tp=2")]
        assert same_report
        assert num_reports == 1
        assert "hold gradients" in refused


def collect_as_often_as_possible(rank, world_size):
    collections, counts, threshold = [], [], gc.get_threshold()

    def build(world):
        counts.append(len(collections))
        return jobs.build(world)

    session = dynatrain.init(build, "dp=4", initialize=jobs.initialize, timeout_s=20)
    session.on_switch(lambda report: counts.append(len(collections)))
    gc.callbacks.append(lambda phase, info: collections.append(phase))
    gc.set_threshold(1, 1, 1)
    try:
        step_of(session, 0)
        session.switch("dp=2,tp=2")
        is_on = gc.isenabled()
        gc.disable()
        session.switch("dp=4")
        _, _, at_build, at_end, *_ = counts  # init builds twice
        return at_build, at_end - at_build, is_on, gc.isenabled()
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.pop()
        gc.enable()


# A full collection takes a quarter of a second, and all ranks wait for the one that has it.
def test_garbage_is_not_collected_during_a_switch_and_as_before_after_it(pool):
    for before, during, is_on, is_still_off in pool.run(collect_as_often_as_possible):
        assert before > 100
        assert during < 100, "only what comes between the end of a switch and its callbacks"
        assert is_on
        assert not is_still_off


def build_counter():
    """A build that counts its calls."""
    calls = []

    def build(world):
        calls.append(str(world.layout))
        return jobs.build(world)

    return build, calls


def prepare_and_tell(rank, world_size, source, target):
    session = start(source)
    return session.prepare(target), session.switch(target)


# It was None: nobody saw what a prepared switch would move, or what it held until then.
@pytest.mark.parametrize("target", ["dp=2,tp=2", "tp=2", "dp=4"])
def test_prepare_tells_what_the_switch_then_reports(pool, target):
    told = pool.run(prepare_and_tell, "dp=4", target)

    for prepared, report in told:
        for name in (
            "source",
            "target",
            "bytes_moved",
            "bytes_kept",
            "lower_bound_bytes",
            "staging_peak_bytes",
            "extra_peak_bytes",
            "num_stages",
        ):
            assert getattr(prepared, name) == getattr(report, name), name
        assert prepared.bytes_moved == sum(size for *_, size in report.traffic)
    assert max(prepared.held_bytes for prepared, _ in told) == told[0][0].extra_peak_bytes


def test_prepared_switches_are_equal_on_all_ranks_but_for_what_each_holds(pool):
    told = [prepared for prepared, _ in pool.run(prepare_and_tell, "dp=4", "dp=2")]

    assert len({replace(each, held_bytes=0) for each in told}) == 1
    assert told[3].held_bytes < told[0].held_bytes  # it idles in the target


def prepare_and_change_ones_mind(rank, world_size):
    build, calls = build_counter()
    session = dynatrain.init(build, "dp=4", initialize=jobs.initialize, timeout_s=20)
    step_of(session, 0)
    out = {}

    session.prepare("dp=2,tp=2")
    step_of(session, 1)  # training goes on beside a prepared target, and its result must arrive
    before, num_builds = jobs.whole_state(session.state), len(calls)
    report = session.switch("dp=2,tp=2")
    out["prepared"] = report.prepared and len(calls) == num_builds
    out["bits"] = jobs.differences(before, jobs.whole_state(session.state))
    out["phases"] = {span.phase for span in report.timeline} & {"build", "plan"}

    session.prepare("tp=4")
    dropped = weakref.ref(session._part.targets.standing.target.state.model)
    report = session.switch("dp=4")
    gc.collect()
    out["other switch is cold, the prepared target is gone"] = (
        not report.prepared and dropped() is None and session._part.targets.standing is None
    )

    session.prepare("dp=2,tp=2")
    head = session.state.model.head
    head.bias._local_tensor = head.bias._local_tensor.clone() + 1
    before = jobs.whole_state(session.state)
    report = session.switch("dp=2,tp=2")
    out["replaced tensors make it cold"] = not report.prepared
    out["bits after replacing"] = jobs.differences(before, jobs.whole_state(session.state))

    session.prepare("tp=4")
    if rank == 1:
        session._part.generation.disconnect("the test wants it")
    before = jobs.whole_state(session.state)
    report = session.switch("tp=4")
    out["a lost connection makes it cold"] = not report.prepared
    out["bits after a lost connection"] = jobs.differences(before, jobs.whole_state(session.state))
    return out


# A prepared target that no longer fits the source would bring back an old tensor, and one that was
# bound to a connection would use it when it is gone.
def test_prepared_switch_is_used_when_it_fits_and_dropped_when_not(pool):
    for out in pool.run(prepare_and_change_ones_mind):
        assert out == {
            "prepared": True,
            "bits": [],
            "phases": set(),
            "other switch is cold, the prepared target is gone": True,
            "replaced tensors make it cold": True,
            "bits after replacing": [],
            "a lost connection makes it cold": True,
            "bits after a lost connection": [],
        }


def there_and_back(rank, world_size):
    session = start("dp=4", verify=("sums", "fingerprint", "replicas"))
    step_of(session, 0)
    before, fingerprint = jobs.local_bits(session.state), session.fingerprint()
    world = session.world
    old, rank_before = (session.state, session.state.model, session.state.optimizer), world.rank
    session.switch("dp=2,tp=2")
    refused = 0
    uses = (lambda: old[0].model, lambda: old[1](torch.zeros(1, 12)), old[2].step)
    for use in (*uses, lambda: world.mesh, lambda: world.group("dp_shard")):
        with pytest.raises(StaleStateError):
            use()
        refused += 1
    session.switch("dp=4")
    same = jobs.same_bits(before, jobs.local_bits(session.state))
    step_of(session, 1)  # DTensor's caches must not answer with the first world's mesh
    return same, refused, session.world.epoch, rank_before == session.world.rank, fingerprint


# A -> B -> A is the identity, shard by shard.
def test_there_and_back_is_the_identity_and_replaced_objects_refuse(pool):
    for same, refused, epoch, same_rank, fingerprint in pool.run(there_and_back):
        assert same
        assert refused == 5
        assert epoch == 2
        assert same_rank
        assert int(fingerprint, 16) != 0


def sum_over_groups(rank, world_size):
    session = start("dp=3")  # rank 3 is in no group of this world, so torch's counts now differ
    session.switch("dp=2,tp=2")
    sums = []
    for axes in (("dp_shard", "tp"), ("tp",), ("dp_shard",)):
        total = torch.tensor([float(rank)])
        dist.all_reduce(total, group=session.world.group(*axes))
        sums.append(float(total))
    session.switch("dp=3")
    session.switch("tp=2,dp_replicate=2")
    total = torch.tensor([float(rank)])
    dist.all_reduce(total, group=session.world.group("tp", "dp_replicate"))
    return [*sums, float(total)]


# Members alone make such a group; were it named by torch's counts, they would wait for each other.
def test_groups_over_several_axes_stand_after_ranks_have_idled(pool):
    for rank, sums in enumerate(pool.run(sum_over_groups)):
        tp, dp = (1.0 if rank < 2 else 5.0), (2.0 if rank % 2 == 0 else 4.0)
        assert sums == [6.0, tp, dp, 6.0]


ENDINGS = ("to the end", "break", "raise")


def idle_through_switches(rank, world_size, ending):
    session = start("dp=1")
    seen = []
    try:
        for step in session.steps(6):
            seen.append((step, str(session.layout)))
            step_of(session, step)
            if step < 4:
                session.switch(["dp=3", "dp=2", "dp=4", "dp=1"][step])
            if step == 4 and ending == "break":
                break
            if step == 4 and ending == "raise":
                raise KeyError("the user's own")
    except KeyError:
        seen.append("raised")
    return seen


# An idle rank that waits on after the others have left would hold its machine for ever.
@pytest.mark.parametrize("ending", ENDINGS)
def test_idle_ranks_follow_every_switch_and_end_with_the_others(pool, ending):
    results = pool.run(idle_through_switches, ending, timeout_s=60)

    layouts = ["dp=1", "dp=3", "dp=2", "dp=4", "dp=1", "dp=1"]
    sizes = [1, 3, 2, 4, 1, 1]
    num_steps = 6 if ending == "to the end" else 5
    for rank, seen in enumerate(results):
        expected = [(i, layouts[i]) for i in range(num_steps) if rank < sizes[i]]
        assert seen == expected + (["raised"] if ending == "raise" and rank == 0 else [])


# Groups that only members make must not shift the numbering that idle ranks share with them.
def test_two_axes_with_an_idle_rank(pool):
    assert pool.run(two_axes_with_an_idle_rank, world_size=5, timeout_s=60) == [
        *[["dp=2,tp=2", "dp=5", "dp=2,tp=2"]] * 4,
        ["dp=5"],
    ]


def two_axes_with_an_idle_rank(rank, world_size):
    session = start("dp=2,tp=2")
    seen = []
    for step in session.steps(3):
        seen.append(str(session.layout))
        if session.layout.tp > 1:
            assert session.world.group("dp_shard", "tp").size() == 4
        if step < 2:
            session.switch(["dp=5", "dp=2,tp=2"][step])
    return seen


BUDGET_BYTES = 25_000  # between the needs of the two ranks


def exceed_the_budget(rank, world_size):
    session = start("dp=2", memory_budget_bytes=BUDGET_BYTES)
    errors = []
    for step in session.steps(3):
        step_of(session, step)
        before = jobs.local_bits(session.state)
        if step < 2:
            try:
                session.switch("dp=1")
            except dynatrain.Error as error:
                errors.append((type(error), str(error), getattr(error, "budget_bytes", 0)))
        assert jobs.same_bits(before, jobs.local_bits(session.state))
    return errors, str(session.layout)


# Law 5. Rank 0 would need the whole state, rank 1 staging only: one refusal must be everybody's.
def test_law5_switch_over_the_budget_is_refused_and_training_goes_on(pool):
    for errors, layout in pool.run(exceed_the_budget, world_size=2):
        assert layout == "dp=2"
        assert len(errors) == 2
        for kind, text, budget_bytes in errors:
            assert kind is BudgetError
            assert f"{BUDGET_BYTES} bytes" in text
            assert "intact" in text
            assert budget_bytes == BUDGET_BYTES


LARGE = 24 << 20  # elements


def switch_something_large(rank, world_size):
    def build(world):
        model = torch.nn.Linear(4096, LARGE // 4096, bias=False)
        if world.enabled("dp_shard"):
            torch.distributed.fsdp.fully_shard(model, mesh=world.mesh)
        return dynatrain.TrainState(model)

    def fill(state, world):
        with torch.no_grad():
            state.model.weight.fill_(1.0)

    session = dynatrain.init(build, "dp=1", initialize=fill, timeout_s=40, verify=())
    sizes, models = [], []
    for step in session.steps(3):
        models.append(session.state.model)  # a reference that a script forgot
        sizes.append(resident_bytes())
        if step < 2:
            session.switch(["dp=2", "dp=1"][step])
    return sizes


# A script, a logger or a cycle may hold the old model; its memory must go all the same.
def test_memory_of_a_replaced_state_is_freed_though_the_model_is_held(pool):
    pool.close()  # what an earlier test has left in the heap comes and goes
    whole, half, whole_again = pool.run(switch_something_large, world_size=2, timeout_s=80)[0]

    assert whole - half > LARGE * 4 * 0.4
    assert whole_again - whole < LARGE * 4 * 0.3


def corrupt_a_replica(rank, world_size):
    session = start("dp_replicate=2,dp=2", verify=("replicas",))
    step_of(session, 0)
    if rank == 3:
        with torch.no_grad():
            session.state.model.head.weight._local_tensor.view(-1)[2] += 1e-3
    with pytest.raises(LayoutError) as caught:
        session.switch("dp=4")
    lines = session.verify_replicas()
    return str(caught.value), lines, str(session.layout)


# A switch picks one of the owners; which one is right is not for it to say.
def test_replica_that_was_changed_by_hand_is_named(pool):
    for text, lines, layout in pool.run(corrupt_a_replica):
        assert "head.weight" in text
        assert "3" in text
        assert "intact" in text
        assert len(lines) == 1
        assert dynatrain.Layout.parse(layout) == dynatrain.Layout(dp_replicate=2, dp=2)


def ask_where_one_rank_cannot_say_what_it_has(rank, world_size):
    session = start("dp=4")
    if rank == 1:
        session._part.engine.encoded = lambda *_: {}[rank]
    asked = outcome(session.fingerprint)
    session._part.engine.__dict__.pop("encoded", None)
    return asked, session.switch("dp=2,tp=2").epoch


# It raised by itself, before the exchange: the others waited for it to the deadline.
def test_a_rank_that_cannot_say_what_it_has_refuses_for_all_at_once(pool):
    for (kind, text), epoch in pool.run(ask_where_one_rank_cannot_say_what_it_has):
        assert kind == "LayoutError"
        assert "reading the state" in text
        assert epoch == 1
