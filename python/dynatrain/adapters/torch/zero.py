"""``ZeroRedundancyOptimizer``, in which each parameter's slots are on one rank, whole.

To a map these are plain tensors that some ranks have: nothing of them is cut. Who has them is
torch's choice, by the sizes of the parameters and the number of ranks, and a build makes it anew.
:mod:`.optimizers` looks through it; here is what is refused of it.
"""

from __future__ import annotations

from dynatrain._errors import LayoutError
from dynatrain._torch_private.tensors import hooks_its_state_dict
from dynatrain._torch_private.zero import divides_among_all, is_divided, lays_out_anew
from dynatrain.adapters.torch.optimizers import Holder, holders
from dynatrain.train_state import TrainState

_INTACT = "nothing was switched; the source state is intact"


def check_built(state: TrainState) -> None:
    """Raises LayoutError when a switch could not carry what such an optimizer of a build keeps."""
    for holder in holders(state):
        if is_divided(holder.optimizer):
            _check(holder)


def _check(holder: Holder) -> None:
    optimizer = holder.optimizer
    option = lays_out_anew(optimizer)
    if option:
        raise LayoutError(
            f"adapters: {holder.words} has {option}=True\n"
            "  expected parameters in memory of their own, and an optimizer that is whole once "
            f"build has made it\n  {_INTACT}\n"
            f"  leave {option} out: it divides slots among the same ranks without"
        )
    if divides_among_all(optimizer):
        raise LayoutError(
            f"adapters: {holder.words} divides its slots among all ranks of the job\n"
            "  expected a group of the world: a rank that idles in a layout steps no parameters\n"
            f"  {_INTACT}\n"
            '  give it the replicas, process_group=world.group("dp_replicate"), and where that is '
            "None make the optimizer itself"
        )
    if hooks_its_state_dict(optimizer):
        raise LayoutError(
            f"adapters: {holder.words} has hooks of its state_dict(), which only a rank that holds "
            "all slots can call\n"
            f"  expected none: what they write would stay behind\n  {_INTACT}\n"
            "  keep it in an object with state_dict(), and hand that over as extra="
        )
