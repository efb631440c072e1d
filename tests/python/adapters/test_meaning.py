"""What values mean: what is equal is never told apart by how it is written, and nothing else is."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from functools import partial

import numpy as np
import pytest
import torch

from dynatrain.adapters.torch.meaning import difference, digest

TEXT = "cosine"
ALIKE = {
    "texts that are one object or two": ([TEXT, TEXT], [TEXT, "".join(["cos", "ine"])]),
    "order of a dict": ({"lr": 0.1, "eps": 1}, {"eps": 1, "lr": 0.1}),
    "order of a set": ({"a", "b", "c"}, {"c", "b", "a"}),
    "kinds of numbers": ([1, 0.5, True], [1.0, np.float64(0.5), 1]),
    "list and tuple": ((0.9, 0.999), [0.9, 0.999]),
    "not a number": (float("nan"), float("nan")),
    "kinds of dicts": (OrderedDict(a=1), {"a": 1}),
    "strides": (
        torch.arange(6.0).reshape(2, 3).t(),
        torch.arange(6.0).reshape(2, 3).t().contiguous(),
    ),
    "tensors": ({"lr": torch.tensor(0.1)}, {"lr": torch.tensor(0.1)}),
    "arrays": (np.arange(3), np.arange(3)),
    "partials": (partial(max, 3), partial(max, 3)),
    "dtypes": (torch.bfloat16, torch.bfloat16),
}
OTHER = {
    "numbers": (0.1, 0.2, ": 0.1 and 0.2"),
    "deep": ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, ".a.1.b: 2 and 3"),
    "missing": ({"a": 1}, {}, ".a: 1 and nothing"),
    "lengths": ([1], [1, 2], ": [1] and [1, 2]"),
    "zeros": (0.0, -0.0, ": 0.0 and -0.0"),
    "text and number": ("1", 1, ": '1' and 1"),
    "dtype": (torch.zeros(2), torch.zeros(2).half(), "float32 tensor of shape (2,) and"),
    "bits": (torch.tensor([1.0]), torch.tensor([1.0 + 2**-23]), "tensor"),
    "shape": (torch.zeros(2, 3), torch.zeros(3, 2), "(2, 3)"),
    "functions": (max, min, "max"),
}


# Ranks were said to differ, and groups to have other options, by the bytes of a pickle.
@pytest.mark.parametrize("kind", ALIKE)
def test_what_means_the_same_is_equal(kind):
    first, second = ALIKE[kind]

    assert difference(first, second) is None
    assert digest(first) == digest(second)


def test_some_of_it_pickles_differently():
    first, second = ALIKE["texts that are one object or two"]

    assert pickle.dumps(first) != pickle.dumps(second)


@pytest.mark.parametrize("kind", OTHER)
def test_what_differs_is_named_by_its_place(kind):
    first, second, words = OTHER[kind]

    assert words in str(difference(first, second))


def test_ring_of_references_ends():
    ring = {"name": 1}
    ring["self"] = ring

    assert digest(ring) == digest(pickle.loads(pickle.dumps(ring)))


# "A tensor of this shape and a tensor of this shape" says nothing to who looks for the cause.
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.bool])
def test_tensors_that_look_the_same_are_told_apart_by_their_first_element(dtype):
    first = torch.zeros(3, 4, dtype=dtype)
    second = first.clone()
    second[1, 2] = second[2, 0] = 1

    name = str(dtype).removeprefix("torch.")
    zero, one = first[1, 2].item(), second[1, 2].item()
    assert difference({"a": first}, {"a": second}) == (
        f".a: a {name} tensor of shape (3, 4) each, the first element that differs is [1, 2]: "
        f"{zero} and {one}"
    )
