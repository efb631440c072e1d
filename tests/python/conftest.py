"""What tests of the Python room share: the field lists of the JSON reference."""

from __future__ import annotations

import re

import pytest

from checkout import ROOT, read


def _rows(section):
    page = read(ROOT / "docs/reference/json.md")
    body = page.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    return [line.split("|")[1:3] for line in body.splitlines() if line.startswith("| `")]


@pytest.fixture
def reference_fields():
    """Field names in a table of docs/reference/json.md; `of=` those that one row's text lists."""

    def fields(section, of=None):
        rows = _rows(section)
        if of is None:
            return {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
        text = next(row[1] for row in rows if f"`{of}`" in row[0]).split(";")[0]
        return set(re.findall(r"`(\w+)`", text))

    return fields
