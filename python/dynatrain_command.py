"""The door of the `dynatrain` command: opens even where `import dynatrain` fails, to say why."""

from __future__ import annotations

import importlib.util
import sys
import types


def without_package_init() -> None:
    """Makes `dynatrain.tools` importable without running `dynatrain/__init__.py`."""
    spec = importlib.util.find_spec("dynatrain")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("dynatrain is not installed in this environment")
    package = types.ModuleType("dynatrain")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["dynatrain"] = package


def main() -> int:
    """Runs the command line."""
    try:
        import dynatrain  # noqa: F401
    except ImportError as error:
        if sys.argv[1:2] != ["doctor"]:
            sys.stderr.write(f"{error}\ndynatrain cannot be imported; ask `dynatrain doctor`\n")
            return 1
        for name in [name for name in sys.modules if name.split(".")[0] == "dynatrain"]:
            del sys.modules[name]
        without_package_init()
    from dynatrain.tools import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
