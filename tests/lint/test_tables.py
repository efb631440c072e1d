"""Tables that list the files of a folder list all of them, and no other."""

from __future__ import annotations

import re

import pytest

from checkout import ROOT, read

PACKAGE = ROOT / "python/dynatrain"
TORCH = PACKAGE / "adapters/torch"
TABLES = (
    (TORCH / "__init__.py", TORCH),
    (ROOT / "docs/design/adapters.md", TORCH),
    (ROOT / "docs/design/python.md", PACKAGE),
    (ROOT / "docs/design/generation.md", PACKAGE / "generation"),
    (ROOT / "docs/design/switch.md", PACKAGE / "switch"),
)


# A reader who looks for a rule reads the table; a file that it lacks is one that nobody finds.
@pytest.mark.parametrize(("table", "folder"), TABLES, ids=lambda path: path.name)
def test_the_table_of_a_folder_names_every_file_of_it(table, folder):
    rows = [line for line in read(table).splitlines() if re.match(r"\| `+\w+\.py`", line)]
    named = {name for row in rows for name in re.findall(r"(\w+\.py)`", row.split("|")[1])}

    files = {path.name for path in folder.glob("*.py")}
    assert named | {"__init__.py"} == files
