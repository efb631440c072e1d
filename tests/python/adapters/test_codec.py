"""Values as bytes: equal values give equal bytes wherever they lie, and come back as they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain.adapters.torch import codec

TENSORS = {
    "float32": lambda: torch.arange(24.0).reshape(2, 3, 4),
    "bfloat16": lambda: torch.arange(6, dtype=torch.bfloat16),
    "bool": lambda: torch.tensor([True, False, True]),
    "complex64": lambda: torch.tensor([1 + 2j, 3 - 4j]),
    "scalar": lambda: torch.tensor(7),
    "nothing": lambda: torch.empty(3, 0),
    "transposed": lambda: torch.arange(6.0).reshape(2, 3).t(),
    "channels last": lambda: torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "with gradient": lambda: torch.ones(2, requires_grad=True),
    "a run of a larger one": lambda: torch.arange(1000.0)[10:20],
    "with gaps": lambda: torch.arange(10.0)[::2],
    "spread": lambda: torch.ones(1).expand(5),
    "conjugate": lambda: torch.tensor([1 + 2j]).conj(),
    "parameter": lambda: nn.Parameter(torch.ones(2), requires_grad=False),
}


# torch's own pickle holds the address of the memory: an `extra` that is equal on all ranks would
# travel once for each of them.
def test_equal_tensors_at_two_places_give_equal_bytes():
    first, second = ({"ema": {"weight": torch.arange(1000.0)}} for _ in range(2))
    assert first["ema"]["weight"].data_ptr() != second["ema"]["weight"].data_ptr()

    assert codec.encode("extra", first) == codec.encode("extra", second)


@pytest.mark.parametrize("kind", TENSORS)
def test_tensor_comes_back_as_it_was(kind):
    tensor = TENSORS[kind]()

    back = codec.decode(codec.encode("extra", [tensor]))[0]

    assert type(back) is type(tensor)
    assert back.dtype == tensor.dtype
    assert back.stride() == tensor.stride()
    assert back.requires_grad == tensor.requires_grad
    assert torch.equal(back, tensor)


def test_tensor_that_two_places_hold_is_one_on_the_other_side():
    tensor = torch.ones(3)

    first, second = codec.decode(codec.encode("extra", (tensor, tensor)))

    assert first is second


def test_tensor_that_came_over_can_be_written():
    back = codec.decode(codec.encode("extra", torch.zeros(3)))

    back += 1

    assert back.tolist() == [1, 1, 1]
