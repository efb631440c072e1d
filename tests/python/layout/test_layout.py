"""Layouts as a user writes them: sizes, text, ranks, layers, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynatrain import Layout, LayoutError, World
from dynatrain.generation.meshes import _expert_sizes
from dynatrain.layout import MESH_AXES
from training_jobs import NoMeshes

SIZES = st.integers(1, 4)


@st.composite
def layouts(draw):
    """Every axis, expert sizes that divide, virtual stages, stage lists and rank orders."""
    sizes = {axis: draw(SIZES) for axis in MESH_AXES}
    etp = draw(st.sampled_from([1, sizes["tp"]]))
    dense = sizes["dp_shard"] * sizes["cp"] * sizes["tp"] // etp
    ep = draw(st.sampled_from([n for n in range(1, dense + 1) if dense % n == 0]))
    vpp = draw(SIZES) if sizes["pp"] > 1 else 1
    num_stages = sizes["pp"] * vpp
    stages = draw(st.none() | st.lists(SIZES, min_size=num_stages, max_size=num_stages))
    order = draw(st.permutations(MESH_AXES))
    return Layout(**sizes, ep=ep, etp=etp, vpp=vpp, stages=stages, order=order)


# The text form goes through command lines, JSON and the meetings of ranks: what it drops is lost.
@given(layouts())
def test_text_form_is_read_back_to_an_equal_layout(layout):
    again = Layout.parse(str(layout))

    assert again == layout
    assert hash(again) == hash(layout)
    assert str(again) == str(layout)
    assert pickle.loads(pickle.dumps(layout)) == layout


# A rank whose coordinate differs from its place in the mesh would hold another rank's shard.
@given(layouts())
def test_coordinates_are_places_in_the_mesh_array(layout):
    shape = [layout.size(axis) for axis in layout.order]
    ranks = np.arange(layout.world_size).reshape(shape)

    for rank in range(layout.world_size):
        place = [layout.coordinate(rank, axis) for axis in layout.order]
        assert ranks[tuple(place)] == rank


# Two ranks that disagree on a group's members hang in its first collective.
@given(layouts(), st.sets(st.sampled_from(MESH_AXES), min_size=1))
def test_group_holds_the_ranks_that_vary_along_its_axes(layout, axes):
    shape = [layout.size(axis) for axis in layout.order]
    ranks = np.arange(layout.world_size).reshape(shape)
    rank = layout.world_size - 1
    where = np.argwhere(ranks == rank)[0]
    window = tuple(slice(None) if axis in axes else where[i] for i, axis in enumerate(layout.order))

    assert layout.group(rank, *axes) == sorted(ranks[window].ravel().tolist())


def test_dp_is_shorthand_for_dp_shard():
    layout = Layout(dp=3)

    assert layout == Layout(dp_shard=3) == Layout.parse("dp=3") == Layout.parse("dp_shard=3")
    assert layout.size("dp") == layout.size("dp_shard") == layout.dp_shard == 3


# A world of one still has a name, or `--source ''` would be needed.
def test_layout_of_one_rank_has_a_text_form():
    assert str(Layout()) == "dp=1"
    assert Layout.parse("dp=1") == Layout()


def test_world_size_is_the_product_of_the_mesh_axes():
    layout = Layout(dp=2, dp_replicate=3, cp=2, tp=4, pp=2, ep=4, vpp=2)

    assert layout.world_size == 2 * 3 * 2 * 4 * 2


# Stage v of pipeline rank p is stage v * pp + p: interleaved, first layer on rank 0.
def test_virtual_stages_are_interleaved():
    layout = Layout(pp=2, vpp=2)

    assert layout.layers(0, 8) == [range(0, 2), range(4, 6)]
    assert layout.layers(1, 8) == [range(2, 4), range(6, 8)]


def test_even_split_gives_the_first_stages_one_layer_more():
    layout = Layout(pp=3)

    assert [layout.layers(rank, 7) for rank in range(3)] == [
        [range(0, 3)],
        [range(3, 5)],
        [range(5, 7)],
    ]


def test_stages_list_decides_the_layers_of_every_virtual_stage():
    layout = Layout(pp=2, vpp=2, stages=[1, 2, 3, 4])

    assert layout.layers(0, 10) == [range(0, 1), range(3, 6)]
    assert layout.layers(1, 10) == [range(1, 3), range(6, 10)]


# A layer on two stages is trained twice; a layer on none is lost.
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_every_layer_lives_on_one_stage(pp, vpp, surplus):
    layout = Layout(pp=pp, vpp=vpp if pp > 1 else 1)
    num_layers = pp * vpp + surplus

    held = [
        layer for rank in range(pp) for part in layout.layers(rank, num_layers) for layer in part
    ]

    assert sorted(held) == list(range(num_layers))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dp": 2, "dp_shard": 4}, ["dp=2", "dp_shard=4", "shorthand"]),
        ({"tp": 0}, ["tp=0", "at least 1"]),
        ({"pp": -1}, ["pp=-1"]),
        ({"dp": 3, "ep": 2}, ["ep=2", "3"]),
        ({"tp": 4, "etp": 2}, ["etp=2", "4"]),
        ({"pp": 2, "stages": [3]}, ["stages", "2"]),
        ({"pp": 2, "stages": [3, 0]}, ["stages", "0"]),
        ({"order": ("tp",)}, ["order", "5"]),
        ({"order": ("tp", "tp", "cp", "pp", "dp_shard")}, ["tp"]),
        ({"order": ("ep", "tp", "cp", "pp", "dp_shard")}, ["ep"]),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(arguments, words):
    with pytest.raises(LayoutError) as caught:
        Layout(**arguments)

    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "dp", "dp=", "dp=two", "dp=2 tp=2", "dp=2,dp=2", "dp=2,,tp=2"]
)
def test_text_that_is_no_layout_is_refused_with_an_example(text):
    with pytest.raises(LayoutError, match="dp=2,tp=2"):
        Layout.parse(text)


def test_unknown_axis_is_refused_with_the_axes_there_are():
    with pytest.raises(LayoutError, match="xx") as caught:
        Layout.parse("xx=2")

    for axis in MESH_AXES:
        assert axis in str(caught.value)


# A caller that catches ValueError, as for any other bad argument, must catch this one.
def test_layout_error_is_a_value_error():
    with pytest.raises(ValueError, match="tp=0"):
        Layout(tp=0)


def test_layers_that_do_not_add_up_are_refused():
    with pytest.raises(LayoutError, match="3"):
        Layout(pp=2, stages=[1, 2]).layers(0, 10)
    with pytest.raises(LayoutError, match="3 layers over 4 stages"):
        Layout(pp=2, vpp=2).layers(0, 3)


def test_ranks_outside_the_layout_are_refused():
    with pytest.raises(LayoutError, match="rank 2"):
        Layout(dp=2).coordinate(2, "dp_shard")


# The expert mesh re-cuts dp_shard * cp * tp; with other ranks in it an expert is averaged with
# another one.
@pytest.mark.parametrize(
    ("layout", "sizes"),
    [
        (Layout(dp=4, ep=2), {"efsdp": 2, "ep": 2}),
        (Layout(dp=4, ep=4), {"ep": 4}),
        (Layout(dp=2, tp=2, ep=4), {"ep": 4}),
        (Layout(dp=4, tp=2, ep=2, etp=2), {"efsdp": 2, "ep": 2, "etp": 2}),
        (Layout(pp=2, dp=2, cp=2, ep=2), {"pp": 2, "efsdp": 2, "ep": 2}),
        (Layout(dp_replicate=2, dp=2, ep=2), {"dp_replicate": 2, "ep": 2}),
    ],
)
def test_expert_mesh_has_the_sizes_of_the_layout(layout, sizes):
    assert _expert_sizes(layout) == sizes


def test_layout_without_experts_has_no_expert_mesh():
    assert _expert_sizes(Layout(dp=4, tp=2)) == {}
    assert _expert_sizes(Layout(dp=4, tp=2, etp=2)) == {}


def test_expert_mesh_refuses_an_order_it_does_not_know():
    layout = Layout(dp=4, ep=2, order=("tp", "cp", "pp", "dp_shard", "dp_replicate"))

    with pytest.raises(LayoutError, match="default order"):
        _expert_sizes(layout)


def test_world_says_its_layout_rank_and_epoch():
    world = World(Layout(dp=2, tp=2), 3, "cpu", NoMeshes())

    assert repr(world) == "World(dp=2,tp=2, rank=3/4, epoch=0)"
    assert (world.coordinate("dp_shard"), world.coordinate("tp")) == (1, 1)
    assert world.submesh("pp", "cp") is None
    assert world.group("pp") is None
