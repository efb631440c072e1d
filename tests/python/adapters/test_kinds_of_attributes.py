"""What ranks say of attributes on shards is joined, and contradictions are refused by name."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate

from dynatrain import LayoutError
from dynatrain.adapters.torch.attributes import kinds, kinds_of_source


@pytest.fixture
def sharded(monkeypatch):
    """A parameter of a mesh of one rank."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield DTensor.from_local(torch.zeros(4), init_device_mesh("cpu", (1,)), [Replicate()])
    dist.destroy_process_group()


# One name for all parameters would be one more word for each parameter of each rank.
def test_a_slot_that_is_plain_everywhere_is_noted_once(sharded):
    found = [(f"layer.{i}", ".main_grad", sharded, torch.zeros(4)) for i in range(9)]

    notes = kinds(found)

    assert len(notes) == 1
    assert kinds_of_source(notes)[".main_grad"].everywhere


def test_a_slot_of_both_kinds_on_one_rank_is_told_by_the_names(sharded):
    notes = kinds([("a", ".g", sharded, torch.zeros(4)), ("b", ".g", sharded, sharded)])

    kind = kinds_of_source(notes)[".g"]
    assert (kind.everywhere, kind.fqns) == (False, {"a"})


# Which of the two a third rank should make, nobody could say.
def test_ranks_that_keep_different_kinds_under_one_slot_are_refused_by_the_slot(sharded):
    plain = kinds([("a", ".main_grad", sharded, torch.zeros(4))])
    other = kinds([("b", ".main_grad", sharded, sharded)])

    with pytest.raises(LayoutError, match=r"param\.main_grad is a plain tensor") as caught:
        kinds_of_source(plain | other)

    assert "intact" in str(caught.value)
