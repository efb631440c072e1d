"""One parameter under several names: tied embeddings, which a pipeline holds once on each stage.

Where only one side of a switch ties two names, both are named. A source that ties them sends one
memory under both; a target that ties them takes the second into memory of its own, to be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from dynatrain._errors import LayoutError
from dynatrain._torch_private.tensors import local_tensor
from dynatrain.adapters.torch.inventory import LiveTensors
from dynatrain.adapters.torch.names import clean_fqn, unwrapped
from dynatrain.adapters.torch.placing import fresh, wrap_like
from dynatrain.train_state import TrainState


def further_names(state: TrainState, names: Mapping[str, str]) -> Iterator[str]:
    """The FQNs of every parameter but its first one."""
    firsts: dict[int, str] = {}
    for lead, module in state.named_modules():
        for name, param in unwrapped(module).named_parameters(remove_duplicate=False):
            fqn = clean_fqn(lead + name)
            fqn = names.get(fqn, fqn)
            if firsts.setdefault(id(param), fqn) != fqn:
                yield fqn


def give_copies(target: LiveTensors, lent: Mapping[str, torch.Tensor]) -> None:
    """Memory for what arrives under the second name of a tied tensor; ``lent`` is shared."""
    for name in target.tied:
        tensor = target.tensors[name]
        local = lent.get(name)
        if local is None:
            local = fresh(local_tensor(tensor), local_tensor(tensor).device)
        target.tensors[name] = wrap_like(tensor, local)


def check_equal(target: LiveTensors) -> None:
    """Raises LayoutError when what arrived under the names of a tied tensor differs in a bit."""
    for name, first in target.tied.items():
        a, b = (local_tensor(target.tensors[key]).contiguous() for key in (first, name))
        if not torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)):
            raise differs(first, name)


def differs(first: str, name: str) -> LayoutError:
    """What is said of two names of the source that one tensor of the target is to have."""
    return LayoutError(
        f"adapters: {first!r} and {name!r} are one tensor in the target, and differ in the source\n"
        "  expected copies that are equal to the bit: only one of them can go on\n"
        "  nothing was changed; the source state is intact\n"
        "  all-reduce the gradients of tied parameters between their stages in every step, or do "
        "not tie them in this layout"
    )
