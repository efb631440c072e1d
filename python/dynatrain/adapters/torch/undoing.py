"""What a step changes beside what its optimizers write: kept when it begins, put back if it fails.

A step that another rank has cut short has drawn random numbers, left gradients and gathered
parameters, and written buffers in its forward pass. Where no optimizer has begun to write, all of
that can be put back, and the state is the one that the step began with.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dynatrain._torch_private.tensors import drop_unreduced, hook_behind_steps, hook_steps
from dynatrain.adapters.port import StepGuard
from dynatrain.adapters.torch.optimizers import holders
from dynatrain.adapters.torch.streams import random_streams
from dynatrain.train_state import TrainState


class TorchStepGuard(StepGuard):
    """The port for torch; see :class:`dynatrain.adapters.port.StepGuard`.

    Of buffers, those are copied that steps have been seen to write; the first step copies all.

    Args:
        state: whose steps are guarded.
        device: of this rank.
    """

    def __init__(self, state: TrainState, device: torch.device) -> None:
        self._state = state
        self._streams = random_streams(device)
        self._read: dict[str, bytes] = {}
        self._versions: dict[str, int] = {}
        self._copies: dict[str, torch.Tensor] = {}
        self._written: set[str] | None = None  #: names of buffers that steps write; None at first
        self._begun: set[int] = set()
        self._stepped: set[int] = set()
        self._turns: list[int] = []  #: of the schedulers, when the step began
        self._usual: list[int] | None = None  #: how far a step takes them
        every = [each for holder in holders(state) for each in holder.all]
        for each in every:
            hook_steps(each, lambda optimizer, *_: self._begun.add(id(optimizer)))
        self._all = {
            id(each)
            for each in every
            if hook_behind_steps(each, lambda optimizer, *_: self._stepped.add(id(optimizer)))
        }
        self._sure = bool(every) and len(self._all) == len(every)

    def begin(self) -> None:
        """See the port."""
        self._begun.clear()
        self._stepped.clear()
        self._read = {name: get() for name, (get, _, _) in self._streams.items()}
        self._turns = self._turns_now()
        self._versions, self._copies = {}, {}
        for name, buffer in self._buffers():
            self._versions[name] = buffer._version
            if self._written is None or name in self._written:
                self._copies[name] = buffer.detach().clone()

    def end(self) -> None:
        """See the port."""
        written = {name for name, now in self._buffers() if now._version != self._versions[name]}
        self._written = written if self._written is None else self._written | written
        self._usual = self._moved()
        self._copies = {}

    def undo(self) -> int | None:
        """See the port."""
        with torch.no_grad():
            self._drop_what_hangs()
            if not self._sure:
                return None
            if self._begun:
                return 1 if self._is_done() else None
            return 0 if self._put_back() else None

    def _is_done(self) -> bool:
        """Whether all that a step of the state does has been done: what failed came behind it."""
        stepped, moved = self._begun == self._stepped == self._all, self._moved()
        return stepped and self._state.scaler is None and (not moved or moved == self._usual)

    def _put_back(self) -> bool:
        for name, buffer in self._buffers():
            if buffer._version == self._versions.get(name):
                continue
            if name not in self._copies:
                return False
            buffer.copy_(self._copies[name])
        for name, (_, put, _) in self._streams.items():
            put(self._read[name])
        return self._turns_now() == self._turns

    def _drop_what_hangs(self) -> None:
        for module in self._state.modules:
            drop_unreduced(module)
            for param in module.parameters():
                param.grad = None

    def _buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        for lead, module in self._state.named_modules():
            for name, buffer in module.named_buffers():
                yield lead + name, buffer

    def _turns_now(self) -> list[int]:
        given = self._state.scheduler
        several = given if isinstance(given, list | tuple) else [given]
        return [int(getattr(each, "last_epoch", 0)) for each in several if each is not None]

    def _moved(self) -> list[int]:
        return [now - then for now, then in zip(self._turns_now(), self._turns, strict=True)]
