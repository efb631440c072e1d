"""What a step changes, kept when it begins, and put back where another rank has cut it short.

Such a step has drawn random numbers, left gradients and gathered parameters, and written buffers in
its forward pass; where no optimizer has begun to write, all of that can be put back. Where copies
of what optimizers write are kept as well, a step can be taken back that is done already: other
ranks may have failed in it, and the only other owner of their part may be the one that is lost.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from dynatrain._torch_private.tensors import (
    drop_unreduced,
    hook_behind_steps,
    hook_steps,
    local_tensor,
)
from dynatrain.adapters.port import StepGuard
from dynatrain.adapters.torch.optimizers import OF_PARAMETERS, holders
from dynatrain.adapters.torch.streams import plain_streams
from dynatrain.train_state import TrainState


@dataclass
class _Begun:
    """What a state was, but for what optimizers write, when a step began.

    Attributes:
        streams: of random numbers.
        buffers: the buffers that there were, and how often torch had seen each written.
        copies: of buffers.
        turns: of the schedulers.
        beside: state of schedulers, and options of groups; None where nothing is kept of it.
    """

    streams: list[Any] = field(default_factory=list)
    buffers: dict[str, tuple[torch.Tensor, int]] = field(default_factory=dict)
    copies: dict[str, torch.Tensor] = field(default_factory=dict)
    turns: list[int] = field(default_factory=list)
    beside: tuple[list[Any], list[list[dict[str, Any]]]] | None = None


class TorchStepGuard(StepGuard):
    """The port for torch; see :class:`dynatrain.adapters.port.StepGuard`.

    Of buffers, those are copied that steps have been seen to write; the first step copies all.

    Args:
        state: whose steps are guarded.
        device: of this rank.
        keeps_previous: whether what optimizers write is copied before they do, in the memory where
            it lies: as much as parameters and slots take.
    """

    def __init__(
        self, state: TrainState, device: torch.device, *, keeps_previous: bool = False
    ) -> None:
        self._state = state
        self._streams = plain_streams(device)
        self._now, self._last = _Begun(), _Begun()
        #: Where buffers hang: a step may put another tensor there, but makes no modules.
        self._places = {
            f"{lead}{path}.{key}": (module._buffers, key)
            for lead, whole in state.named_modules()
            for path, module in whole.named_modules()
            for key in module._buffers
        }
        self._written: set[str] | None = None  #: names of buffers that steps write; None at first
        self._begun: set[int] = set()
        self._stepped: set[int] = set()
        self._usual: list[int] | None = None  #: how far a step takes the schedulers
        self._holders = holders(state)
        every = [each for holder in self._holders for each in holder.all]
        for each in every:
            hook_steps(each, self._begins)
        self._all = {id(each) for each in every if hook_behind_steps(each, self._has_stepped)}
        self._sure = bool(every) and len(self._all) == len(every)
        self._keeps_previous = keeps_previous and self._sure
        self._copied: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._slots: list[dict[Any, dict[str, Any]]] = []

    # ---- the port ------------------------------------------------------------------------------

    def begin(self) -> None:
        """See the port."""
        self._begun.clear()
        self._stepped.clear()
        self._last, self._now = self._now, _Begun(turns=self._turns())
        self._now.streams = [get() for get, _ in self._streams]
        for name, buffer in self._buffers():
            self._now.buffers[name] = (buffer, buffer._version)
            if self._written is None or name in self._written:
                self._now.copies[name] = buffer.detach().clone()
        if self._keeps_previous:
            options = [[_options(group) for group in each.groups] for each in self._holders]
            self._now.beside = ([_state_of(each) for each in self._schedulers()], options)

    def end(self) -> None:
        """See the port."""
        written = {name for name in self._places if self._is_changed(name, self._now)}
        self._written = written if self._written is None else self._written | written
        self._usual = self._moved()

    def undo(self) -> int | None:
        """See the port."""
        with torch.no_grad():
            self._drop_what_hangs()
            if not self._sure:
                return None
            if not self._begun:
                return 0 if self._put_back(self._now) else None
            if self._is_done():
                return 1
            return 0 if self._copied and self._restore(self._now) else None

    @property
    def can_go_back(self) -> bool:
        """See the port."""
        return bool(self._copied)

    def go_back(self) -> bool:
        """See the port."""
        with torch.no_grad():
            # Where the step after it has begun and was undone, it is the one before that.
            return self._restore(self._now if self._begun else self._last)

    # ---- its parts -----------------------------------------------------------------------------

    def _begins(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if not self._begun and self._keeps_previous:
            with torch.no_grad():
                self._keep()
        self._begun.add(id(optimizer))

    def _has_stepped(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self._stepped.add(id(optimizer))

    def _keep(self) -> None:
        """Copies what the optimizers are about to write."""
        tensors = [*self._written_by_optimizers()]
        known = len(self._copied) == len(tensors) and all(
            mine is theirs for (mine, _), theirs in zip(self._copied, tensors, strict=True)
        )
        if not known:
            self._copied = [(each, torch.empty_like(local_tensor(each))) for each in tensors]
        for each, kept in self._copied:
            kept.copy_(local_tensor(each))
        self._slots = [
            {param: dict(slots) for param, slots in holder.keeper.state.items()}
            for holder in self._holders
        ]

    def _restore(self, begun: _Begun) -> bool:
        """Has everything be as when ``begun``, before the optimizers wrote."""
        for tensor, kept in self._copied:
            local_tensor(tensor).copy_(kept)
        for holder, kept_slots in zip(self._holders, self._slots, strict=True):
            holder.keeper.state.clear()
            holder.keeper.state.update(kept_slots)
        assert begun.beside is not None
        states, options = begun.beside
        for scheduler, state in zip(self._schedulers(), states, strict=True):
            scheduler.load_state_dict(state)
        for holder, groups in zip(self._holders, options, strict=True):
            for group, of_group in zip(holder.groups, groups, strict=True):
                group.update(copy.deepcopy(of_group))
        self._copied = []
        return self._put_back(begun)

    def _is_done(self) -> bool:
        """Whether all that a step of the state does has been done: what failed came behind it."""
        stepped, moved = self._begun == self._stepped == self._all, self._moved()
        return stepped and self._state.scaler is None and (not moved or moved == self._usual)

    def _put_back(self, begun: _Begun) -> bool:
        for name, (held, key) in self._places.items():
            if name in begun.copies:
                # The step may have put another tensor there, of another shape, or none.
                held[key], _ = begun.buffers[name]
                held[key].copy_(begun.copies[name])
            elif self._is_changed(name, begun):
                return False
        for (_, put), state in zip(self._streams, begun.streams, strict=True):
            put(state)
        return self._turns() == begun.turns

    def _drop_what_hangs(self) -> None:
        for module in self._state.modules:
            drop_unreduced(module)
            for param in module.parameters():
                param.grad = None

    # ---- what there is -------------------------------------------------------------------------

    def _written_by_optimizers(self) -> Iterator[torch.Tensor]:
        for holder in self._holders:
            yield from holder.params()
            for slots in holder.keeper.state.values():
                yield from (each for each in slots.values() if isinstance(each, torch.Tensor))

    def _buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, (held, key) in self._places.items():
            buffer = held.get(key)
            if buffer is not None:
                yield name, buffer

    def _is_changed(self, name: str, begun: _Begun) -> bool:
        """Whether a buffer is another tensor than when ``begun``, or was written since."""
        held, key = self._places[name]
        buffer = held.get(key)
        before, version = begun.buffers.get(name, (None, 0))
        return buffer is not before or (buffer is not None and buffer._version != version)

    def _schedulers(self) -> list[Any]:
        given = self._state.scheduler
        several = given if isinstance(given, list | tuple) else [given]
        return [each for each in several if each is not None]

    def _turns(self) -> list[int]:
        return [int(getattr(each, "last_epoch", 0)) for each in self._schedulers()]

    def _moved(self) -> list[int]:
        return [now - then for now, then in zip(self._turns(), self._now.turns, strict=True)]


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {name: copy.deepcopy(it) for name, it in group.items() if name not in OF_PARAMETERS}


def _state_of(scheduler: Any) -> Any:
    return copy.deepcopy(scheduler.state_dict())
