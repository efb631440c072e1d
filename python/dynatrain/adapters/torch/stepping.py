"""Whether an optimizer of a state has stepped, seen by torch's hook behind every step.

The hooks are the library's, so that :mod:`.outside` leaves them out, and torch neither saves nor
copies them with an optimizer. Other signs are not sure: parameters that are written through
``.data`` or by a kernel of the script's own keep their version.
"""

from __future__ import annotations

import torch

from dynatrain._torch_private.tensors import hook_behind_steps
from dynatrain.adapters.port import Watched
from dynatrain.adapters.torch.optimizers import Holder, holders
from dynatrain.train_state import TrainState


class _Seen(Watched):
    """Told by the optimizers themselves."""

    def see(self, *_: object) -> None:
        """Called behind a step of an optimizer."""
        self.stepped = True
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():  # type: ignore[no-untyped-call]
            self.sure = False  # a replay of the graph steps and calls nobody


def watch(state: TrainState) -> Watched:
    """Hooks every optimizer of a state, those inside of others too."""
    seen = _Seen()
    found = holders(state)
    hooked = {
        id(optimizer)
        for holder in found
        for optimizer in holder.all
        if hook_behind_steps(optimizer, seen.see)
    }
    seen.sure = bool(found) and all(_is_seen(holder, hooked) for holder in found)
    return seen


def _is_seen(holder: Holder, hooked: set[int]) -> bool:
    """A wrapper without hooks of its own steps by what it holds, all of which has to be seen."""
    if id(holder.optimizer) in hooked:
        return True
    inner = (*holder.same, *holder.parts)
    return bool(inner) and all(id(each) in hooked for each in inner)
