"""Resolves requirements-dev.in under several Pythons and writes their union as exact pins.

Usage: python scripts/lock.py python3.10 python3.11 python3.12 python3.13 > requirements-dev.lock
A package whose version differs between Pythons appears once per version, with markers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "requirements-dev.in"


def resolve(python: str) -> tuple[str, dict[str, str]]:
    """Returns the interpreter's version and the exact version of every package it would get."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        venv_python = f"{folder}/bin/python"
        pip = [venv_python, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", "--upgrade", "pip"], check=True)
        report = f"{folder}/report.json"
        arguments = ["--dry-run", "--ignore-installed", "--quiet", "--report", report]
        subprocess.run([*pip, "install", *arguments, "-r", str(SOURCE)], check=True)
        found = json.loads(Path(report).read_text(encoding="utf-8"))
    pins = {
        item["metadata"]["name"].lower(): item["metadata"]["version"] for item in found["install"]
    }
    return ".".join(found["environment"]["python_full_version"].split(".")[:2]), pins


def merge(resolved: dict[str, dict[str, str]]) -> list[str]:
    """Returns one line per package and version, with a marker where not all Pythons agree."""
    versions: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for python, pins in resolved.items():
        for name, version in pins.items():
            versions[name][version].append(python)
    lines = []
    for name in sorted(versions):
        for version, pythons in sorted(versions[name].items()):
            marker = " or ".join(f'python_version == "{python}"' for python in pythons)
            everywhere = len(pythons) == len(resolved)
            lines.append(f"{name}=={version}" + ("" if everywhere else f" ; {marker}"))
    return lines


def main() -> None:
    """Writes the lock file's text to the standard output."""
    resolved = dict(resolve(python) for python in sys.argv[1:])
    lines = ["# Exact pins for development, written by `make lock` from requirements-dev.in."]
    sys.stdout.write("\n".join(lines + merge(resolved)) + "\n")


if __name__ == "__main__":
    main()
