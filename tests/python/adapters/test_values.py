"""State that is no tensor: it arrives by name, and what cannot arrive is refused by name."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState
from dynatrain.adapters import Part, Published
from dynatrain.adapters.torch import TorchAdapter
from dynatrain.adapters.torch.streams import continue_streams, random_streams, read_streams
from dynatrain.layout import Layout
from held_values import Counter, model

CPU = torch.device("cpu")
TORCH = TorchAdapter(CPU)


def encoded(state):
    """The shared values of a state as bytes, by name."""
    shared = TORCH.values(TORCH.inventory(state)).shared
    return {name: TORCH.encode(name, value) for name, value in shared.items()}


def carry(source, target):
    """Reads one state, sends it through bytes, writes it into another."""
    blobs = encoded(source)
    published = Published({name: [Part(TORCH.decode(blobs[name]), (0,))] for name in blobs})
    inventory = TORCH.inventory(target)
    TORCH.check_values(inventory, published, 0)
    TORCH.take_values(inventory, published)


def sgd(module, groups):
    """An optimizer with the given groups of parameter numbers and options."""
    params = list(module.parameters())
    return torch.optim.SGD(
        [{"params": [params[i] for i in numbers], **options} for numbers, options in groups],
        lr=1.0,
    )


# Pipeline stages hold other parameters than before: groups follow the names, not the places.
def test_param_group_options_follow_the_names():
    source_model, target_model = model(), model()
    source = TrainState(
        source_model, sgd(source_model, [([0, 2], {"lr": 0.1}), ([1, 3], {"lr": 0.2})])
    )
    target = TrainState(
        target_model, sgd(target_model, [([1], {}), ([3], {}), ([2], {}), ([0], {})])
    )

    carry(source, target)

    assert [group["lr"] for group in target.optimizer.param_groups] == [0.2, 0.2, 0.1, 0.1]


# One learning rate would win over the other without a word.
def test_group_that_joins_different_options_is_refused_with_both_names():
    source_model, target_model = model(), model()
    source = TrainState(source_model, sgd(source_model, [([0, 1], {"lr": 0.1}), ([2, 3], {})]))
    target = TrainState(target_model, sgd(target_model, [([0, 1, 2, 3], {})]))

    with pytest.raises(LayoutError) as caught:
        carry(source, target)

    for word in ("0.weight", "1.weight", "0.1", "1.0", "intact"):
        assert word in str(caught.value)


def test_scheduler_scaler_and_extra_go_on():
    def state():
        module = model()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        return TrainState(module, optimizer, scheduler, scaler, extra={"counter": Counter()})

    source, target = state(), state()
    for _ in range(3):
        source.optimizer.step()
        source.scheduler.step()
    source.scaler._init_scale = 128.0
    source.extra["counter"].value = 7

    carry(source, target)

    assert target.scheduler.state_dict() == source.scheduler.state_dict()
    assert target.scaler.state_dict() == source.scaler.state_dict()
    assert target.extra["counter"].value == 7
    assert target.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_extra_that_the_source_lacks_is_refused_by_name():
    with pytest.raises(LayoutError, match=r"extra\.late"):
        carry(TrainState(model()), TrainState(model(), extra={"late": Counter()}))


def test_extra_without_a_state_dict_is_refused_at_once():
    with pytest.raises(LayoutError, match=r"extra\.plain is of type object"):
        TrainState(model(), extra={"plain": object()})


# "Cannot be sent" alone does not say which of ten objects to mend.
@pytest.mark.parametrize("place", ["extra.bad", "scheduler", "param_groups", "optimizer.state"])
def test_state_that_cannot_be_sent_is_named(place):
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    bad = Counter()
    bad.value = lambda: None
    if place == "param_groups":
        optimizer.param_groups[0]["hook"] = bad.value
    if place == "optimizer.state":
        optimizer.state[next(module.parameters())]["hook"] = bad.value
    state = TrainState(
        module,
        optimizer,
        scheduler=bad if place == "scheduler" else None,
        extra={"bad": bad} if place == "extra.bad" else None,
    )

    with pytest.raises(LayoutError, match=place) as caught:
        encoded(state)

    assert "intact" in str(caught.value)


# Some optimizers count steps in a plain number and keep no tensor at all.
def test_optimizer_values_arrive_without_any_tensor_beside_them():
    source_model, target_model = model(), model()
    source = TrainState(source_model, torch.optim.SGD(source_model.parameters(), lr=0.1))
    target = TrainState(target_model, torch.optim.SGD(target_model.parameters(), lr=0.1))
    source.optimizer.state[source_model[0].weight]["count"] = 9

    carry(source, target)

    assert target.optimizer.state[target_model[0].weight] == {"count": 9}
    assert target_model[1].weight not in target.optimizer.state


def test_parameter_of_an_optimizer_that_the_model_lacks_is_refused_by_its_shape():
    state = TrainState(model(), torch.optim.SGD([nn.Parameter(torch.zeros(5, 6))], lr=0.1))

    with pytest.raises(LayoutError, match=r"\(5, 6\)"):
        TORCH.values(TORCH.inventory(state))


@pytest.fixture
def streams():
    """Every stream of the process at a known place, put back afterwards."""
    before = (random.getstate(), torch.get_rng_state())
    random.seed(1)
    torch.manual_seed(1)
    yield read_streams(CPU)
    random.setstate(before[0])
    torch.set_rng_state(before[1])


def distinct(*sources):
    """What ranks read, by stream, each distinct answer once."""
    return {name: list(dict.fromkeys(item[name] for item in sources)) for name in sources[0]}


def on(rank):
    """One place for all streams."""
    return defaultdict(lambda: rank)


def test_stream_that_is_equal_on_all_ranks_goes_on(streams):
    expected = random.random(), torch.rand(1).item()
    random.seed(99)
    torch.manual_seed(99)

    derived = continue_streams(CPU, distinct(streams, streams), seed=0, places=on(1), step=4)

    assert derived == []
    assert (random.random(), torch.rand(1).item()) == expected


# A dropout mask drawn per rank has no continuation in another layout; it must be made, not copied,
# or two ranks drop the same elements.
def test_stream_that_differs_is_derived_from_seed_stream_rank_and_step(streams):
    torch.manual_seed(2)
    other = {**streams, "torch.cpu": read_streams(CPU)["torch.cpu"]}
    draws = {}
    for place in [(0, 0, 4), (0, 1, 4), (0, 0, 5), (1, 0, 4), (0, 0, 4)]:
        seed, rank, step = place
        derived = continue_streams(CPU, distinct(streams, other), seed, on(rank), step)
        assert derived == ["torch.cpu"]
        draws.setdefault(place, []).append(torch.rand(1).item())

    assert draws[0, 0, 4][0] == draws[0, 0, 4][1]
    assert len({values[0] for values in draws.values()}) == 4


# Under tp every rank computes the dropout of replicated activations itself: with streams of their
# own the ranks would train replicated parameters apart, and no error would say so.
@pytest.mark.parametrize(("told_apart", "equal"), [([], True), (["stream.torch.cpu"], False)])
def test_ranks_that_differ_in_tp_alone_draw_the_same_unless_they_were_told_apart(
    streams, told_apart, equal
):
    own = {f"stream.{name}": [Part(state, (0,))] for name, state in streams.items()}
    own["stream.torch.cpu"] += [Part(None, ())]
    draws = []
    for rank in (2, 3):
        published = Published({}, own, frozenset(told_apart), Layout(dp=2), Layout(dp=2, tp=2))
        assert TORCH.continue_streams(published, 0, rank, 4) == ["torch.cpu"]
        draws.append(torch.rand(1).item())

    assert (draws[0] == draws[1]) is equal


EMPTY = TORCH.inventory(TrainState(nn.Module()))


def draws_behind(layouts, streams):
    """What the ranks of the last layout draw, where those of the first had streams of their own."""
    source = Layout.parse(layouts[0])
    adapters = [TorchAdapter(CPU) for _ in range(4)]
    states = [{**streams, "torch.cpu": seeded(rank)} for rank in range(source.world_size)]
    for step, target in enumerate(map(Layout.parse, layouts[1:])):
        parts = {}
        for rank, state in enumerate(states):
            restore(state)
            for name, value in adapters[rank].own_values(EMPTY).items():
                parts.setdefault(name, {}).setdefault(value, []).append(rank)
        states = []
        for rank in range(target.world_size):
            own = {
                name: [Part(value, ranks) for value, ranks in held.items()]
                for name, held in parts.items()
            }
            published = Published({}, own, frozenset(), source, target)
            adapters[rank].continue_streams(published, 0, rank, step)
            states.append(read_streams(CPU))
        source = target
    return [state["torch.cpu"] for state in states]


def seeded(seed):
    torch.manual_seed(seed)
    return read_streams(CPU)["torch.cpu"]


def restore(state):
    for name, (_, put, _) in random_streams(CPU).items():
        put(state[name])


# All ranks of a tp-only layout draw the same, and nothing but a mark says that this is no stream
# which the script had made equal: data parallel ranks would drop the same elements ever after.
@pytest.mark.parametrize(
    ("layouts", "num_distinct"),
    [
        (["dp=4", "tp=4", "dp=4"], 4),
        (["dp=4", "tp=4", "tp=2", "dp=2,tp=2"], 2),
        (["dp=4", "dp=1", "pp=2", "dp=1", "dp=4"], 4),
        (["dp=1", "dp=4"], 1),
        (["dp=1", "tp=4", "dp=4"], 1),
    ],
)
def test_streams_of_places_are_told_from_those_that_a_script_has_made_equal(
    streams, layouts, num_distinct
):
    assert len(set(draws_behind(layouts, streams))) == num_distinct


def test_a_stream_that_a_script_has_made_equal_on_several_places_is_of_none_any_more(streams):
    adapter = TorchAdapter(CPU)
    adapter._placed = frozenset({"torch.cpu"})
    dp4 = Layout(dp=4)
    parts = {name: [Part(state, range(4))] for name, state in streams.items()}
    own = {f"stream.{name}": each for name, each in parts.items() if name != "torch.cpu"}
    own["placed stream.torch.cpu"] = parts["torch.cpu"]

    assert adapter.continue_streams(Published({}, own, frozenset(), dp4, dp4), 0, 3, 7) == []
    assert read_streams(CPU) == streams
    assert adapter._placed == frozenset()
