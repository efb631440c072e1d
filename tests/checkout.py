"""The files of this checkout, as the lint tests see them."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def tracked(*patterns: str) -> list[Path]:
    """Returns the files git knows or would add that match one of the patterns."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    done = subprocess.run(
        [*command, *patterns], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    return [path for line in done.stdout.splitlines() if (path := ROOT / line).is_file()]


def short(path: Path) -> str:
    """Returns the path as seen from the root of the checkout."""
    return str(path.relative_to(ROOT))


def read(path: Path) -> str:
    """Returns the text of a file; bytes that are no text are replaced."""
    return path.read_text(encoding="utf-8", errors="replace")
