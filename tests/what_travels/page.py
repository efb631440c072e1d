"""The page: one table for each kind of case."""

from __future__ import annotations

from checkout import ROOT
from what_travels import divided, elements, modules, objects, optimizers, schedulers
from what_travels.trial import tried

PAGE = ROOT / "docs/reference/what-travels.md"
HEAD = """# What travels

Each line was tried: a job of one rank trains three steps, switches, and trains three more, beside
one that never switches. *Travels* means that weights, buffers, optimizer slots, options and objects
are the same to the bit at the end. *Refused* means that nothing was moved, and that the job trained
on as if nothing had been asked; *refused by init*, that it showed before the first step. *While
parameters stay whole* stands beside slots that are not cut as their parameter: layouts that shard
or stage the model are refused.

A test tries all of it and holds this page against it; `make what-travels` writes it anew.
"""
KINDS = {
    "Optimizers": optimizers.CASES,
    "States that torch divides": divided.CASES,
    "Schedulers": schedulers.CASES,
    "Modules and averages": modules.CASES,
    "Elements, precision, parts": elements.CASES,
    "Loaders, extras, streams": objects.CASES,
}
#: What is to be said below a table.
NOTES = {"Modules and averages": modules.NOTES}
CASES = {name: case for cases in KINDS.values() for name, case in cases.items()}


def page() -> str:
    """Tries all cases and says how they ended."""
    parts = [HEAD]
    for kind, cases in KINDS.items():
        parts.append(f"\n## {kind}\n\n| a job with | ends | |\n|---|---|---|\n")
        for name, case in cases.items():
            outcome = tried(case)
            why = outcome.why.replace("|", "\\|")
            parts.append(f"| {name} | {outcome.word} | {why} |\n")
        parts.append(NOTES.get(kind, ""))
    return "".join(parts)
