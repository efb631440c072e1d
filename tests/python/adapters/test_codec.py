"""Values as bytes: equal values give equal bytes wherever they lie, and come back as they were."""

from __future__ import annotations

import os
import pickle
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dynatrain import LayoutError
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


class Settings:
    def __init__(self, rate):
        self.rate = rate


PLAIN = [
    {"a": [1, (2.5, None)], 3: {"deep": frozenset([1, 2])}},
    deque([1, 2], maxlen=5),
    defaultdict(list, {"a": [1]}),
    OrderedDict(b=1, a=2),
    Counter("aab"),
    datetime(2026, 1, 2, 3, tzinfo=timezone.utc),
    Path("a/b"),
    1 + 2j,
    np.float64(0.1),
    np.arange(6).reshape(2, 3),
    torch.float16,
    torch.Size([2, 3]),
    torch.device("cpu"),
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_plain_values_come_back(value):
    back = codec.decode(codec.encode("extra", value))

    assert type(back) is type(value)
    assert repr(back) == repr(value)


@pytest.mark.parametrize("kind", [torch.sparse_coo_tensor, torch.quantize_per_tensor])
def test_tensors_of_other_layouts_come_back(kind):
    if kind is torch.sparse_coo_tensor:
        tensor = torch.eye(3).to_sparse()
    else:
        tensor = torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.qint8)

    back = codec.decode(codec.encode("extra", tensor))

    assert repr(back) == repr(tensor)


# A class of the script's own may run anything when it is read. It was read all the same, or only
# one rank could import it.
def test_a_class_of_the_script_is_refused_where_it_is_written():
    with pytest.raises(LayoutError, match=r"holds .*Settings.*\n(.*\n)*.*add_safe_globals"):
        codec.encode("extra", {"settings": Settings(0.1)})


def test_a_class_that_the_script_calls_safe_is_sent():
    with torch.serialization.safe_globals([Settings]):
        back = codec.decode(codec.encode("extra", Settings(0.1)))

    assert back.rate == 0.1


class Runs:
    def __reduce__(self):
        return (os.system, ("exit 1",))


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_bytes_that_would_run_code_are_refused(monkeypatch, protocol):
    blob = pickle.dumps(Runs(), protocol)
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("it ran"))

    with pytest.raises(LayoutError, match="cannot be read back"):
        codec.decode(blob)
