"""The README's example runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_example(rank, world_size, source):
    names = {"__name__": "__main__"}
    exec(source, names)
    session = names["session"]
    return session.step, str(session.layout), session.world.epoch


# It used names that nothing defined, and dimensions of a mesh that its second layout lacks.
def test_example_of_the_readme_trains_through_its_switch(pool):
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)

    assert found is not None
    assert pool.run(run_example, found[1], timeout_s=60) == [(10, "tp=4", 1)] * 4
