"""A list of tensors, one for each of some parameters, means other ones where a rank has others."""

from __future__ import annotations

import pytest
import torch

from dynatrain.adapters.torch.slots import is_by_place

SHAPES = [torch.Size(shape) for shape in [(4, 3), (4,), (2, 4), (2,)]]


def of(*shapes):
    return [torch.zeros(shape) for shape in shapes]


# An average of the trainable parameters is shorter than the list of all: a stage would load
# another's without a word.
@pytest.mark.parametrize(
    "tree",
    [
        of((4, 3), (4,), (2, 4), (2,)),
        of((4, 3), (2, 4)),
        {"shadow": of((4,), (2,))},
        [1, {"of": tuple(of((4, 3), (2,)))}],
    ],
)
def test_a_list_with_the_shapes_of_some_parameters_is_known_by_place(tree):
    assert is_by_place(tree, SHAPES)


@pytest.mark.parametrize("tree", [of((4,)), of((5,), (4,)), of((2,), (4, 3)), [1, 2, 3, 4], "text"])
def test_other_lists_are_values(tree):
    assert not is_by_place(tree, SHAPES)
