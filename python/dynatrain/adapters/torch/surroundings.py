"""What the calling code has set for its thread, left while the library works and put back after.

A script may call a switch inside ``inference_mode``, ``no_grad`` or ``autocast``, or with another
default dtype or device than it had at ``init``. What the library makes for it must not depend on
that: a parameter made under ``inference_mode`` never trains again, and a ``build`` under another
default dtype makes another model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


class Surroundings:
    """The defaults of the moment in which this was made, without modes of execution.

    Args:
        device: the session's; autocast is left for it and for the host.
    """

    def __init__(self, device: torch.device) -> None:
        self._dtype = torch.get_default_dtype()
        chosen = torch.get_default_device()
        self._device = torch.device("cpu") if chosen.type == "meta" else chosen
        self._autocasts = {device.type, "cpu"}

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Gradients are recorded, nothing is cast, and the defaults are those of ``init``."""
        dtype = torch.get_default_dtype()
        with ExitStack() as modes:
            modes.enter_context(torch.inference_mode(False))
            modes.enter_context(torch.enable_grad())
            for kind in self._autocasts:
                if torch.is_autocast_enabled(kind):
                    modes.enter_context(torch.autocast(kind, enabled=False))
            if torch.get_default_device() != self._device:
                modes.enter_context(self._device)
            torch.set_default_dtype(self._dtype)
            try:
                yield
            finally:
                torch.set_default_dtype(dtype)
