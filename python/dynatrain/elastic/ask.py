"""What an operator asks of a coordinator, over one connection that ends with the answer."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from dynatrain._errors import LayoutError, TransportError
from dynatrain.elastic.answers import of_lines
from dynatrain.elastic.json_text import value_of
from dynatrain.elastic.line import Line
from dynatrain.elastic.seal import OPERATOR
from dynatrain.given import shown


def ask(line: Line, question: Mapping[str, Any], timeout_s: float = 5.0) -> dict[str, Any]:
    """The answer to a question; a resize and a drain are answered with the status, too.

    Of several addresses the first one answers where a coordinator is in office. All of the answer
    has ``timeout_s``.

    Raises:
        TransportError: nobody answers there, not to this secret, or with what is no answer.
        LayoutError: the coordinator refuses.
    """
    try:
        if not any(line.connect() for _ in range(line.num_addresses)):
            raise _silent(line, line.why_not)
        line.say(OPERATOR + json.dumps(question))
        began = time.monotonic()
        until = began + timeout_s
        answer = of_lines(lambda: line.hear(max(0.0, until - time.monotonic())))
    finally:
        line.end()
    if answer is None:
        seconds = time.monotonic() - began
        raise _silent(line, f"no whole answer in {seconds:.1f} s; its secret may be another one")
    found = _facts(answer)
    if "error" in found:
        raise LayoutError(found["error"])
    return found


def _facts(answer: str) -> dict[str, Any]:
    try:
        found = value_of(answer)
        if not isinstance(found, dict):
            raise ValueError("it has no facts by name")
    except ValueError as error:
        raise TransportError(
            f"elastic: the coordinator has answered {shown(answer)}: {error}\n"
            "  expected a JSON object\n  nothing was changed by this process\n"
            "  run the same version of dynatrain everywhere",
            retryable=False,
        ) from error
    return found


def _silent(line: Line, why: str) -> TransportError:
    return TransportError(
        f"elastic: no answer of a coordinator at {line.addresses}: {why}\n"
        "  expected the address and the secret of a coordinator that runs and is in office\n"
        "  nothing was changed; members that train go on, nobody joins or leaves without one\n"
        "  see the output of `dynatrain coordinator`",
        retryable=True,
    )
