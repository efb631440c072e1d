"""That torch has what is used of it, asked when it is imported."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def check_has(needed: Iterable[tuple[object, str]]) -> None:
    """Raises ImportError unless each of these has an attribute of this name."""
    for owner, name in needed:
        if not hasattr(owner, name):
            raise ImportError(
                f"dynatrain: torch {torch.__version__} has no "
                f"{getattr(owner, '__name__', owner)}.{name}\n"
                "  expected torch 2.11 to 2.15\n  install one of these versions"
            )
