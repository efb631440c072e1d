"""The house rules of the style guide that no compiler and no linter knows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from checkout import ROOT, read, short, tracked

# Design, section 10. A file includes its own room and rooms above it in this list.
CPP_ROOMS = [
    "base", "geometry", "layout", "plan", "schedule", "execution", "fingerprint", "transport",
    "kernels", "membership", "torch",
]  # fmt: skip
STANDARD_LIBRARY_ROOMS = {"base", "geometry", "layout", "plan", "schedule", "membership"}
BINDING = "torch"
# Rooms 10 to 17; folders, or files of the package where they are named.
PYTHON_ROOMS = ["values", "adapters", "generation", "switch", "elastic", "planning", "api", "tools"]
API_FILES = {
    "api", "arguments", "attending", "caller", "collective", "join", "joining", "keeper", "loop",
    "position", "progress", "requested", "session",
}  # fmt: skip
ADAPTERS = "dynatrain.adapters"
#: The one place that chooses a framework.
CHOOSE_THE_ADAPTER = ("dynatrain.api", "dynatrain.join")
#: What room 11 may know besides itself: values, errors, the core, torch's private names.
ABOVE_ADAPTERS = {
    "_errors", "_native", "_torch_private", "given", "layout", "report", "train_state", "words",
}  # fmt: skip
FORBIDDEN_ROOM_NAMES = {"utils", "common", "helpers", "misc", "core"}
MAX_LINES = 400
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
STANDARD_HEADER = re.compile(r"^(sys/|netinet/|arpa/|linux/)?[a-z_0-9]+(\.h)?$")


def room_of(path: Path) -> str:
    """Returns the C++ room of a file in include/dynatrain, csrc or tests/cpp."""
    parts = path.relative_to(ROOT).parts
    return parts[1] if parts[0] == "csrc" else parts[2]


def room_of_include(header: str) -> str | None:
    """Returns the room that an include names, or None for a header of somebody else."""
    parts = header.split("/")
    if parts[0] == "dynatrain":
        return parts[1]
    return parts[0] if len(parts) > 1 and parts[0] in CPP_ROOMS and parts[0] != BINDING else None


def product_files() -> list[Path]:
    return tracked("include/*.hpp", "csrc/*.hpp", "csrc/*.cpp", "csrc/*.cu", "csrc/*.cuh")


def arrow_faults(room: str, kind: str, header: str) -> str | None:
    """Says why a file of `room` may not include `header`, or returns None."""
    included = room_of_include(header)
    if included is None:
        if room == BINDING:
            return None
        if kind == '"':
            return None if "/" not in header else f"unknown header {header}"
        if room in STANDARD_LIBRARY_ROOMS and not STANDARD_HEADER.match(header):
            return f"{header} is not the standard library's"
        if header.split("/")[0] in {"torch", "ATen", "c10", "pybind11", "Python.h"}:
            return f"{header} belongs to room torch"
        return None
    if CPP_ROOMS.index(included) > CPP_ROOMS.index(room):
        return f"{header} points down"
    if {included, room} == {"transport", "kernels"}:
        return f"{header}: transport and kernels do not see each other"
    return None


# An arrow that points down ties a room to what stands on it, and neither can be read alone.
def test_every_cpp_include_points_up():
    faults = []
    for path in product_files():
        room = room_of(path)
        for kind, header in INCLUDE.findall(read(path)):
            fault = arrow_faults(room, kind, header)
            if fault:
                faults.append(f"{short(path)}: {fault}")

    assert faults == []


# A job whose ranks join and leave has no one set of ranks: whoever asks torch for it is wrong then.
def test_torch_is_asked_who_takes_part_in_one_file():
    asks = re.compile(r"\b(dist|distributed_c10d)\.(get_rank|get_world_size|new_group)\(")
    found = [short(path) for path in tracked("python/*.py") if asks.search(read(path))]

    assert found == ["python/dynatrain/_torch_private/groups.py"]


# One wheel serves every supported torch only as long as no torch header is compiled in.
def test_no_cpp_file_includes_a_torch_header():
    faults = [
        f"{short(path)}: {header}"
        for path in product_files()
        for _, header in INCLUDE.findall(read(path))
        if header.split("/")[0] in {"torch", "ATen", "c10", "caffe2", "gloo"}
        and not (ROOT / "csrc" / header).exists()
    ]

    assert faults == []


# The rule above is only worth something if it sees what it forbids.
@pytest.mark.parametrize(
    ("room", "kind", "header"),
    [
        ("plan", '"', "dynatrain/schedule/schedule.hpp"),
        ("plan", '"', "execution/arena.hpp"),
        ("transport", '"', "dynatrain/kernels/cpu_copier.hpp"),
        ("kernels", '"', "transport/loopback/loopback.hpp"),
        ("execution", "<", "pybind11/pybind11.h"),
        ("geometry", "<", "nccl/nccl.h"),
    ],
)
def test_arrow_rule_refuses_what_points_down(room: str, kind: str, header: str):
    assert arrow_faults(room, kind, header) is not None


@pytest.mark.parametrize(
    ("room", "kind", "header"),
    [
        ("plan", '"', "dynatrain/layout/layout.hpp"),
        ("plan", '"', "plan/cells.hpp"),
        ("transport", "<", "sys/socket.h"),
        ("torch", "<", "pybind11/pybind11.h"),
        ("base", "<", "cstdint"),
    ],
)
def test_arrow_rule_allows_what_points_up(room: str, kind: str, header: str):
    assert arrow_faults(room, kind, header) is None


# A room is found by its name in four places; a room that is not in the design has no page.
def test_every_cpp_folder_is_a_room_of_the_design():
    found = {room_of(path) for path in [*product_files(), *tracked("tests/cpp/*/*")]}

    assert found - set(CPP_ROOMS) == set()
    assert found & FORBIDDEN_ROOM_NAMES == set()


def imports_of(path: Path) -> set[str]:
    """Returns the full names of all modules that a Python file imports."""
    names = set()
    for node in ast.walk(ast.parse(read(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def python_rank(module: str) -> int:
    """Returns the place of a module's room; a file of no other room belongs to the values."""
    parts = module.split(".")
    room = parts[1] if len(parts) > 1 else "values"
    room = "api" if room in API_FILES else "tools" if room == "__main__" else room
    return PYTHON_ROOMS.index(room) if room in PYTHON_ROOMS else 0


def module_of(path: Path) -> str:
    """Returns the full name of a file of the package; that of a folder for its __init__."""
    parts = path.relative_to(ROOT / "python").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def framework_of(module: str) -> str | None:
    """Returns the folder of room 11 that a module lies in, or None outside of all."""
    parts = module.split(".")
    inside = module.startswith(f"{ADAPTERS}.") and (ROOT / "python" / Path(*parts[:3])).is_dir()
    return parts[2] if inside else None


def adapter_fault(own: str, imported: str) -> str | None:
    """Says why module `own` may not import `imported` for the sake of room 11, or returns None."""
    framework = framework_of(imported)
    if framework not in (None, framework_of(own)) and own not in CHOOSE_THE_ADAPTER:
        return f"{imported} is a framework's own, and only {CHOOSE_THE_ADAPTER} choose one"
    in_room = own == ADAPTERS or own.startswith(f"{ADAPTERS}.")
    package, _, rest = imported.partition(".")
    known = {"", "adapters", *ABOVE_ADAPTERS}
    if in_room and package == "dynatrain" and rest.split(".")[0] not in known:
        return f"{imported} stands on the adapters"
    return None


# Rooms 12 to 16 know room 11 by its port alone, so that a second framework is a folder beside the
# first and nothing else.
def test_adapters_are_known_by_their_port_alone():
    faults = [
        f"{short(path)}: {fault}"
        for path in tracked("python/dynatrain/*.py")
        for name in sorted(imports_of(path))
        if (fault := adapter_fault(module_of(path), name))
    ]

    assert faults == []


@pytest.mark.parametrize(
    ("own", "imported"),
    [
        ("dynatrain.session", "dynatrain.adapters.torch"),
        ("dynatrain.switch.standing", "dynatrain.adapters.torch.memory.materialize"),
        ("dynatrain.adapters.port", "dynatrain.adapters.torch"),
        ("dynatrain.adapters", "dynatrain.adapters.torch.TorchAdapter"),
        ("dynatrain.adapters.torch.values", "dynatrain.generation.engine"),
        ("dynatrain.adapters.torch", "dynatrain.generation.world.World"),
    ],
)
def test_rule_of_the_port_refuses_what_goes_around_it(own: str, imported: str):
    assert adapter_fault(own, imported) is not None


@pytest.mark.parametrize(
    ("own", "imported"),
    [
        ("dynatrain.session", "dynatrain.adapters.port.Adapter"),
        ("dynatrain.generation.engine", "dynatrain.adapters.Inventory"),
        ("dynatrain.api", "dynatrain.adapters.torch.TorchAdapter"),
        ("dynatrain.adapters.torch", "dynatrain.adapters.torch.memory"),
        ("dynatrain.adapters.torch.memory", "dynatrain.adapters.port.Slots"),
        ("dynatrain.adapters.torch.memory", "torch.distributed.tensor"),
    ],
)
def test_rule_of_the_port_allows_the_port(own: str, imported: str):
    assert adapter_fault(own, imported) is None


# A file includes its own room and rooms above it in the table; the package's face shows all.
def test_no_python_room_imports_a_later_one():
    faults = []
    for path in tracked("python/dynatrain/*.py"):
        own = module_of(path)
        faults += [
            f"{short(path)}: imports {name}"
            for name in imports_of(path)
            if own != "dynatrain" and python_rank(name) > python_rank(own)
        ]

    assert faults == []


def names_hidden(tree: ast.Module) -> list[str]:
    """Returns parameters and variables that hide an import, function or class of their file."""
    known = set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            known |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            known.add(node.name)
    used = [
        (node.lineno, node.arg if isinstance(node, ast.arg) else node.id)
        for node in ast.walk(tree)
        if isinstance(node, ast.arg)
        or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    ]
    return [f"{line}: {name}" for line, name in used if name in known]


# Whoever calls the import where it is hidden calls something else, and no linter of ours says so.
def test_no_name_hides_another_one_of_its_file():
    faults = [
        f"{short(path)}:{fault}"
        for path in tracked("python/dynatrain/*.py")
        for fault in names_hidden(ast.parse(read(path)))
    ]

    assert faults == []


# All of torch's private process-group API sits in one file: a new torch breaks one place.
def test_private_process_group_state_is_touched_in_one_file():
    users = [
        short(path)
        for path in tracked("python/dynatrain/*.py")
        if re.search(
            r"distributed_c10d\._world|c10d\._world\b|\b_register_process_group\b", read(path)
        )
    ]

    assert len(users) <= 1, users


# A setting that any file may read is one that nobody can list.
def test_own_environment_variables_are_read_in_one_file():
    users = [
        short(path)
        for path in tracked("python/dynatrain/*.py", "csrc/*.cpp", "include/*.hpp")
        if re.search(r'"DYNATRAIN_[A-Z]', read(path))
    ]

    assert users == ["python/dynatrain/_settings.py"]


# A file that does not fit a reader's head is two files.
def test_no_file_is_longer_than_four_hundred_lines():
    long_files = [
        f"{short(path)}: {num_lines} lines"
        for path in tracked("*.cpp", "*.hpp", "*.cu", "*.cuh", "*.py")
        if (num_lines := read(path).count("\n")) > MAX_LINES
    ]

    assert long_files == []
