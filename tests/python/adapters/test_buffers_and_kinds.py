"""Unusual tensors of a model: what has a rule arrives, anything else is refused by its name."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, spectral_norm, weight_norm
from torch.nn.utils.parametrizations import spectral_norm as parametrized_spectral_norm
from torch.nn.utils.parametrizations import weight_norm as parametrized_weight_norm

from dynatrain import LayoutError, TrainState


def trained(model):
    return TrainState(model, torch.optim.AdamW(model.parameters(), lr=0.1))


def step(state):
    state.model(torch.ones(5, 4)).square().sum().backward()
    state.optimizer.step()
    state.optimizer.zero_grad()


NORMED = {
    "weight_norm": lambda: weight_norm(nn.Linear(4, 3)),
    "spectral_norm": lambda: spectral_norm(nn.Linear(4, 3)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(4, 3), "weight", amount=0.5),
    "parametrized weight_norm": lambda: parametrized_weight_norm(nn.Linear(4, 3)),
    "parametrized spectral_norm": lambda: parametrized_spectral_norm(nn.Linear(4, 3)),
}


# torch's own hooks keep a tensor beside the parameters, computed anew in every forward pass.
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", NORMED)
def test_a_model_with_a_derived_weight_goes_on_as_if_nothing_had_happened(start, kind):
    torch.manual_seed(3)
    plain = trained(NORMED[kind]())
    torch.manual_seed(3)
    session = start(lambda: trained(NORMED[kind]()))
    for _ in range(3):
        step(plain)
        step(session.state)
        session.switch("dp=1")
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, session.state.model.state_dict()[name]), name
    with torch.no_grad():
        x = torch.ones(2, 4)
        assert torch.equal(plain.model.eval()(x), session.state.model.eval()(x))


# Whoever reads the weight between a switch and the next forward pass must not see zeros.
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_derived_weight_is_computed_from_what_arrived(start):
    session = start(lambda: trained(NORMED["weight_norm"]()))
    step(session.state)
    session.switch("dp=1")

    model = session.state.model
    assert torch.equal(model.weight, torch._weight_norm(model.weight_v, model.weight_g, 0).detach())


class WithBuffers(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)
        self.register_buffer("grown", torch.zeros(2))
        self.register_buffer("late", None)
        self.register_buffer("dropped", torch.zeros(2))
        self.register_buffer("narrowed", torch.zeros(2))
        self.other = nn.Module()
        self.other.register_buffer("grown", self.grown)


# Caches and lists of what was seen grow while a model trains; build knows their first shape only.
def test_buffers_that_a_step_changed_arrive_as_they_are(start):
    session = start(lambda: trained(WithBuffers()))
    for at in range(2):
        model = session.state.model
        model.grown = model.other.grown = torch.arange(5.0 + at)
        model.late = torch.arange(3) + at
        model.dropped = None
        model.narrowed = torch.full((2, 2), 0.5 + at, dtype=torch.bfloat16)
        session.switch("dp=1")

        model = session.state.model
        assert torch.equal(model.grown, torch.arange(5.0 + at))
        assert model.grown is model.other.grown
        assert torch.equal(model.late, torch.arange(3) + at)
        assert model.dropped is None
        assert torch.equal(model.narrowed, torch.full((2, 2), 0.5 + at, dtype=torch.bfloat16))


# The shape of a buffer may depend on the layout: what stood in the other one has no place there.
def test_a_buffer_that_build_makes_of_another_shape_is_refused(start):
    sizes = iter([2, 2, 3])  # of init's trial, the first build and the switch

    def build():
        model = nn.Linear(4, 3)
        model.register_buffer("local", torch.zeros(next(sizes)))
        return trained(model)

    session = start(build)
    with pytest.raises(LayoutError, match=r"local\|buffer"):
        session.switch("dp=1")


def test_parameters_and_buffers_without_an_element_arrive(start):
    def build():
        model = nn.Linear(4, 3)
        model.nothing = nn.Parameter(torch.zeros(0, 3))
        model.register_buffer("none", torch.zeros(3, 0))
        return trained(model)

    session = start(build)
    step(session.state)
    session.state.model.nothing.grad = torch.zeros(0, 3)
    session.state.optimizer.step()
    session.state.optimizer.zero_grad()
    before = session.fingerprint()
    session.switch("dp=1")

    assert session.state.model.nothing.shape == (0, 3)
    assert session.fingerprint() == before


def quantized():
    return torch.quantize_per_tensor(torch.ones(3, device="cpu"), 0.5, 0, torch.quint8)


REFUSED = {
    "sparse": lambda: torch.ones(3, 3, device="cpu").to_sparse(),
    "quantized": quantized,
    "nested": lambda: torch.nested.nested_tensor(
        [torch.ones(2, device="cpu"), torch.ones(3, device="cpu")]
    ),
    "jagged": lambda: torch.nested.nested_tensor(
        [torch.ones(2, device="cpu"), torch.ones(3, device="cpu")], layout=torch.jagged
    ),
}


# A raw error of torch says neither which tensor it was nor that training may go on.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_tensor_whose_elements_are_no_bytes_is_refused_by_name(start, kind):
    def build():
        model = nn.Linear(4, 3)
        model.register_buffer("odd", REFUSED[kind]())
        return trained(model)

    with pytest.raises(LayoutError, match=r"'odd\|buffer'(.|\n)*dense tensor"):
        start(build)


class Codes(torch.Tensor):
    """A state of eight bits, as optimizers that quantize their moments keep it."""

    @staticmethod
    def __new__(cls, codes, scale):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)

    def __init__(self, codes, scale):
        self.codes, self.scale = codes, scale

    def __tensor_flatten__(self):
        return ["codes", "scale"], None

    @staticmethod
    def __tensor_unflatten__(inner, context, outer_size, outer_stride):
        return Codes(inner["codes"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(func)


# Its data_ptr is 0, which is not "no memory yet".
def test_a_state_that_wraps_tensors_is_refused_by_name_and_training_goes_on(start):
    session = start(lambda: trained(nn.Linear(4, 3)))
    step(session.state)
    slots = session.state.optimizer.state[session.state.model.bias]
    kept = slots["exp_avg"]
    slots["exp_avg"] = Codes(torch.zeros(3, dtype=torch.uint8), torch.ones(1))
    with pytest.raises(LayoutError, match=r"'bias\|exp_avg'(.|\n)*Codes, which wraps"):
        session.switch("dp=1")
    slots["exp_avg"] = kept
    session.switch("dp=1")


class Phases(nn.Linear):
    """Buffers whose bytes are not their elements: the sign is turned when they are read."""

    def __init__(self):
        super().__init__(4, 3)
        angles = torch.view_as_complex(torch.arange(6.0).view(3, 2))
        self.register_buffer("conjugate", angles.conj())
        self.register_buffer("negative", torch.view_as_complex(torch.ones(3, 2)).conj().imag)


# A rank that joins got the sign turned, and no fingerprint saw it: the bytes were the same.
def test_conjugate_and_negative_views_mean_the_same_in_fresh_memory(adapter):
    made = adapter.build_on_meta(lambda: TrainState(Phases()), "a test")
    inventory = adapter.materialize(adapter.inventory(made), None, ())
    source = Phases()
    for name, tensor in source.named_buffers():
        bytes_of(inventory.tensors[f"{name}|buffer"]).copy_(bytes_of(tensor))

    assert torch.equal(made.model.conjugate, source.conjugate)
    assert torch.equal(made.model.negative, source.negative)


def bytes_of(tensor):
    """The memory as a switch sees it: what lies at the address."""
    plain = torch.empty(0, dtype=tensor.dtype)
    plain.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
    return plain


def test_a_view_in_one_layout_and_none_in_the_other_is_refused(start):
    plain = iter([False, False, True])

    def build():
        model = nn.Linear(4, 3)
        z = torch.zeros(3, dtype=torch.complex64)
        model.register_buffer("z", z if next(plain) else z.conj())
        return trained(model)

    session = start(build)
    with pytest.raises(LayoutError, match=r"z\|buffer(.|\n)*complex64\.conj"):
        session.switch("dp=1")
