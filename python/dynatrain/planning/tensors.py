"""Models that are described, not built: their parameters, and what training keeps of each."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from dynatrain.door import looking, wrong_argument
from dynatrain.given import text, whole

ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}
_MAX_BYTES = 1 << 60


@dataclass(frozen=True)
class TensorSpec:
    """One parameter of a model that is described, not built.

    Attributes:
        fqn: its name.
        shape: its global shape.
        tp_dim: the dimension that tensor parallelism cuts, None when it replicates.
        layers: layers of the model that hold it; several when it is tied. Layer 0 stands for what
            comes before it, the last one for what comes after.
        dtype: torch's name of its element type.
        has_experts: whether dimension 0 counts experts. Expert parallelism cuts it there, the
            tensor parallelism of experts (``etp``) at ``tp_dim``.
    """

    fqn: str
    shape: tuple[int, ...]
    tp_dim: int | None = None
    layers: tuple[int, ...] = (0,)
    dtype: str = "float32"
    has_experts: bool = False

    def __post_init__(self) -> None:
        shape, layers = _wholes(self.shape), _wholes(self.layers)
        tp_dim = None if self.tp_dim is None else whole(self.tp_dim)
        fqn, dtype = text(self.fqn), text(self.dtype)
        if not fqn:
            raise wrong_argument("TensorSpec", "fqn", self.fqn, "the name of a parameter")
        if shape is None or any(size < 0 for size in shape):
            raise wrong_argument("TensorSpec", "shape", self.shape, "sizes, none negative")
        if not layers or any(layer < 0 for layer in layers):
            raise wrong_argument(
                "TensorSpec", "layers", self.layers, "numbers of layers, one or more"
            )
        if self.tp_dim is not None and (tp_dim is None or not 0 <= tp_dim < len(shape)):
            expected = f"None or a dimension of {list(shape)}"
            raise wrong_argument("TensorSpec", "tp_dim", self.tp_dim, expected)
        if dtype not in ITEMSIZE:
            raise wrong_argument("TensorSpec", "dtype", self.dtype, f"one of {sorted(ITEMSIZE)}")
        if prod(size or 1 for size in shape) * ITEMSIZE[dtype] > _MAX_BYTES:
            expected = f"a tensor of at most {_MAX_BYTES} bytes"
            raise wrong_argument("TensorSpec", "shape", self.shape, expected)
        fits = len(shape) > 1 and tp_dim != 0
        if type(self.has_experts) is not bool or (self.has_experts and not fits):
            expected = "False, or True of a tensor (experts, ..) whose experts tp_dim cuts"
            raise wrong_argument("TensorSpec", "has_experts", self.has_experts, expected)
        plain = {"fqn": fqn, "shape": shape, "tp_dim": tp_dim, "layers": layers, "dtype": dtype}
        self.__dict__.update(plain)  # of Python's own classes from here on


def _wholes(values: object) -> tuple[int, ...] | None:
    """The whole numbers in ``values``; None where it holds anything else, or is no sequence."""
    try:
        found = [whole(value) for value in values]  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - an object of the caller's
        return None
    return None if None in found else tuple(value for value in found if value is not None)


@dataclass(frozen=True)
class Slot:
    """One state of each parameter.

    Attributes:
        name: ``param``, or the optimizer's own name for it.
        dtype: torch's name of its element type; None for the parameter's.
    """

    name: str
    dtype: str | None = None

    def __post_init__(self) -> None:
        name, dtype = text(self.name), None if self.dtype is None else text(self.dtype)
        if not name or "|" in name:
            raise wrong_argument("Slot", "name", self.name, "a name without a bar")
        if self.dtype is not None and dtype not in ITEMSIZE:
            expected = f"None or one of {sorted(ITEMSIZE)}"
            raise wrong_argument("Slot", "dtype", self.dtype, expected)
        self.__dict__.update(name=name, dtype=dtype)


_MOMENTS = ("exp_avg", "exp_avg_sq")
#: What training keeps of each parameter, by the optimizer's name on the command line.
OPTIMIZERS = {
    "adamw": (Slot("param"), *(Slot(name) for name in _MOMENTS)),
    "adamw-mixed": (
        Slot("param", "bfloat16"),
        *(Slot(name, "float32") for name in ("master", *_MOMENTS)),
    ),
    "adamw-bf16": tuple(Slot(name, "bfloat16") for name in ("param", *_MOMENTS)),
    "sgd-momentum": (Slot("param"), Slot("momentum_buffer")),
    "none": (Slot("param", "bfloat16"),),
}
ADAMW_SLOTS = OPTIMIZERS["adamw"]


@dataclass(frozen=True)
class Model:
    """A model that is described, and what training keeps of it.

    Attributes:
        name: what reports call it.
        tensors: its parameters, tied ones once.
        slots: what each of them brings: itself and its optimizer state.
        experts_per_token: of each layer's experts, those that a token goes to; 0 where there are
            none, or it is not known.
    """

    name: str
    tensors: tuple[TensorSpec, ...]
    slots: tuple[Slot, ...] = ADAMW_SLOTS
    experts_per_token: int = 0

    def __post_init__(self) -> None:
        name = text(self.name)
        if name is None:
            raise wrong_argument("Model", "name", self.name, "text")
        experts = whole(self.experts_per_token)
        if experts is None or experts < 0:
            expected = "a whole number, 0 or more"
            raise wrong_argument("Model", "experts_per_token", self.experts_per_token, expected)
        self.__dict__.update(name=name, experts_per_token=experts)
        for field, kind in (("tensors", TensorSpec), ("slots", Slot)):
            value = getattr(self, field)
            expected = f"one dynatrain.planning.{kind.__name__} or more"
            with looking("Model", field, value, expected):
                listed = tuple(value)
            if not listed or not all(type(each) is kind for each in listed):
                raise wrong_argument("Model", field, value, expected)
            self.__dict__[field] = listed

    @property
    def num_params(self) -> int:
        """Elements of all parameters."""
        return sum(prod(spec.shape) for spec in self.tensors)

    @property
    def num_layers(self) -> int:
        """Layers that pipeline stages share among them."""
        return 1 + max(layer for spec in self.tensors for layer in spec.layers)


def checked_model(call: str, tensors: Any) -> Model:
    """A model as it is, or of parameters that AdamW trains; raises LayoutError."""
    if type(tensors) is Model:
        return tensors
    expected = "a model of dynatrain.planning, or one dynatrain.TensorSpec or more"
    with looking(call, "tensors", tensors, expected):
        listed = tuple(tensors)
    if not listed or not all(type(spec) is TensorSpec for spec in listed):
        raise wrong_argument(call, "tensors", tensors, expected)
    return Model("", listed)
