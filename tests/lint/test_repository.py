"""What a newcomer relies on: commands that exist, pages that are finished, nothing generated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from checkout import ROOT, read, short, tracked

MAX_FILE_BYTES = 512 * 1024
GENERATED = re.compile(
    r"\.(so|o|a|pyc|whl|egg-info|pt|distcp|log)$|(^|/)(build|dist|out|__pycache__)/"
)
SOURCE_SUFFIXES = {".cpp", ".hpp", ".cu", ".cuh", ".py", ".cmake", ".txt", ".toml", ".yaml"}
TODO = re.compile(r"\b(TODO|FIXME|XXX)\b(?!\(#\d+\))")
CMAKE_TESTS = ROOT / "tests/CMakeLists.txt"
THIS_FILE = Path(__file__).resolve()


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", read(ROOT / "Makefile"), re.MULTILINE))


def pages() -> list[Path]:
    return tracked("*.md")


# A README whose first command fails loses its reader.
def test_every_make_command_in_a_page_is_a_target():
    faults = [
        f"{short(page)}: make {target}"
        for page in pages()
        for target in re.findall(r"(?:^|`|\$ )make ([a-z][a-z-]*)", read(page), re.MULTILINE)
        if target not in make_targets()
    ]

    assert faults == []


# The same for scripts: a page names only files that are there.
def test_every_script_named_in_a_page_exists():
    pattern = re.compile(
        r"\b((?:examples|benchmarks|scripts|tests|docs)/[\w./-]*\.(?:py|md|cpp|png))\b"
    )
    faults = [
        f"{short(page)}: {name}"
        for page in pages()
        for name in pattern.findall(read(page))
        if not (ROOT / name).exists()
    ]

    assert faults == []


# A link that leads nowhere says that nobody has read the page.
def test_every_relative_link_leads_somewhere():
    faults = []
    for page in pages():
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", read(page)):
            if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists():
                faults.append(f"{short(page)}: {target}")

    assert faults == []


# A marker without an issue number is a wish that nobody will find again.
def test_every_todo_carries_an_issue_number():
    faults = [
        f"{short(path)}:{number}: {line.strip()}"
        for path in tracked()
        if path.suffix in SOURCE_SUFFIXES and path != THIS_FILE
        for number, line in enumerate(read(path).splitlines(), 1)
        if TODO.search(line)
    ]

    assert faults == []


# What can be built is built; a committed copy of it rots.
def test_no_generated_or_huge_file_is_tracked():
    faults = [
        short(path)
        for path in tracked()
        if GENERATED.search(short(path)) or path.stat().st_size > MAX_FILE_BYTES
    ]

    assert faults == []


# A stranger's machine has none of our folders.
def test_no_file_names_a_folder_of_one_machine():
    pattern = re.compile(r"(?<![\w.])/(?:work|root|home/\w+)/")
    faults = [
        f"{short(path)}:{number}"
        for path in tracked()
        if path != THIS_FILE
        for number, line in enumerate(read(path).splitlines(), 1)
        if pattern.search(line)
    ]

    assert faults == []


# One number: two would differ in the second release.
def test_version_number_stands_in_one_place():
    version = re.search(r'__version__ = "([^"]+)"', read(ROOT / "python/dynatrain/_version.py"))
    assert version is not None
    number = re.escape(version.group(1))
    pattern = re.compile(rf'(?:__version__|version|VERSION)\s*[=(]?\s*"?{number}')
    holders = [
        short(path)
        for path in tracked("*.py", "*.toml", "*.txt", "*.cmake", "*.hpp", "*.cpp")
        if pattern.search(read(path))
    ]

    assert holders == ["python/dynatrain/_version.py"]


# CMake 4.4.0 to 4.4.3 put each argument between [[ and ]] in a file that ctest reads: one bracket
# more, and no C++ test runs at all.
def test_no_argument_of_test_discovery_holds_a_square_bracket():
    calls = re.findall(r"gtest_discover_tests\(([^()]*(?:\([^()]*\)[^()]*)*)\)", read(CMAKE_TESTS))
    faults = [" ".join(call.split()) for call in calls if "[" in call or "]" in call]

    assert len(calls) >= 4
    assert faults == []


# README's own rule: the manual is in docs/.
@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="no README yet")
def test_readme_stays_under_two_hundred_lines():
    assert read(ROOT / "README.md").count("\n") < 200
