"""That torch has what is used of it, asked when it is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

_WANTED = "  expected torch 2.11 to 2.15\n  install one of these versions"


def check_has(needed: Iterable[tuple[object, str]]) -> None:
    """Raises ImportError unless each of these has an attribute of this name."""
    for owner, name in needed:
        if not hasattr(owner, name):
            raise ImportError(
                f"dynatrain: torch {torch.__version__} has no "
                f"{getattr(owner, '__name__', owner)}.{name}\n{_WANTED}"
            )


def check_names(function: Callable[..., Any], needed: Iterable[str]) -> None:
    """Raises ImportError unless a function of torch reads or sets an attribute of each name.

    What objects have of their own, a class does not tell.
    """
    code: Any = function.__code__
    for name in needed:
        if name not in code.co_names:
            raise ImportError(
                f"dynatrain: {function.__qualname__} of torch {torch.__version__} sets no {name}\n"
                f"{_WANTED}"
            )
