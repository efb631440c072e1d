"""Tables that list the files of a folder list all of them, and no other."""

from __future__ import annotations

import re

import pytest

from checkout import ROOT, read

FOLDER = ROOT / "python/dynatrain/adapters/torch"
TABLES = (FOLDER / "__init__.py", ROOT / "docs/design/adapters.md")


# A reader who looks for a rule reads the table; a file that it lacks is one that nobody finds.
@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.name)
def test_the_table_of_torchs_adapter_names_every_file_of_the_folder(table):
    rows = [line for line in read(table).splitlines() if re.match(r"\| `+\w+\.py`", line)]
    named = {name for row in rows for name in re.findall(r"(\w+\.py)`", row.split("|")[1])}

    files = {path.name for path in FOLDER.glob("*.py")}
    assert named | {"__init__.py"} == files
