"""JSON of other processes and of files, read without trust."""

from __future__ import annotations

import json
from typing import Any


def value_of(text: str | bytes) -> Any:
    """The value that ``text`` says.

    Raises:
        ValueError: it is no JSON, or is nested deeper than Python's stack.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
