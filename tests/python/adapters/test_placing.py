"""Memory goes under the objects that build made: what they carry is there after a switch."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState


class ExpertParameter(nn.Parameter):
    pass


# A gradient mask that is lost moves the frozen rows; the loss curve bends and nobody knows why.
def test_tensor_hooks_still_run_and_their_handles_still_end_them(made_anew):
    handles = []

    def build():
        model = nn.Linear(3, 2)
        handles.append(model.weight.register_hook(lambda grad: grad * 0))
        return TrainState(model)

    weight = made_anew(build).model.weight
    weight.sum().backward()
    masked = weight.grad.clone()
    handles[0].remove()
    weight.sum().backward()

    assert not masked.any()
    assert torch.equal(weight.grad, torch.ones(2, 3))


# The optimizer in the backward pass: parameters would never move again.
def test_post_accumulate_hooks_still_run(made_anew):
    ran = []

    def build():
        model = nn.Linear(3, 2)
        for param in model.parameters():
            param.register_post_accumulate_grad_hook(lambda p: ran.append(tuple(p.shape)))
        return TrainState(model)

    made_anew(build).model(torch.ones(1, 3)).sum().backward()

    assert sorted(ran) == [(2,), (2, 3)]


@pytest.mark.parametrize("dtype", [torch.float32, None])
def test_the_dtype_of_gradients_stays(made_anew, dtype):
    def build():
        model = nn.Linear(3, 2, dtype=torch.bfloat16)
        model.weight.grad_dtype = dtype
        return TrainState(model)

    model = made_anew(build).model

    assert model.weight.grad_dtype == dtype
    assert model.bias.grad_dtype == torch.bfloat16


# Optimizers tell experts apart by the class of their parameters.
def test_class_attributes_identity_and_weak_references_stay(made_anew):
    made = {}

    def build():
        model = nn.Linear(3, 2)
        model.weight = ExpertParameter(model.weight.detach())
        model.weight.is_expert = True
        model.bias.requires_grad_(False)
        made["object"], made["weak"] = model.weight, weakref.ref(model.weight)
        return TrainState(model)

    model = made_anew(build).model

    assert type(model.weight) is ExpertParameter
    assert model.weight.is_expert
    assert model.weight is made["object"] is made["weak"]()
    assert (model.weight.requires_grad, model.bias.requires_grad) == (True, False)


# Recurrent layers hold weak references to their weights, which swap_tensors refuses.
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_get_memory_and_compute_with_it(made_anew, layer):
    model = made_anew(lambda: TrainState(layer(3, 4, num_layers=2))).model
    with torch.no_grad():
        for param in model.parameters():
            param.fill_(0.25)
    expected = layer(3, 4, num_layers=2)
    expected.load_state_dict(model.state_dict())

    assert torch.equal(model(torch.ones(2, 1, 3))[0], expected(torch.ones(2, 1, 3))[0])


# The older recipe for the optimizer in the backward pass hooks the node, which holds the tensor
# that had no memory: its hook would never run again.
def test_a_parameter_whose_accumulation_node_is_held_is_refused_by_name(made_anew):
    nodes = []

    def build():
        model = nn.Linear(3, 2)
        nodes.append(model.weight.expand_as(model.weight).grad_fn.next_functions[0][0])
        return TrainState(model)

    with pytest.raises(LayoutError, match=r"'weight\|param'(.|\n)*post_accumulate_grad_hook"):
        made_anew(build)


def test_a_parameter_that_cpp_code_watches_is_refused_by_name(made_anew):
    watched = []

    def build():
        model = nn.Linear(3, 2)
        watched.append(torch._C._WeakTensorRef(model.weight))
        return TrainState(model)

    with pytest.raises(LayoutError, match=r"under 'weight\|param'"):
        made_anew(build)
