"""What commands that plan on paper have in common: their options, and how numbers are told."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynatrain.planning import Model, Topology

NOTES = (
    "exit status: 0 when the plan was printed, 1 when a layout, a model or a topology cannot be "
    "planned, 2 when the command line is wrong, 130 after Ctrl-C. Sizes need not divide: shards "
    "are cut as torch cuts them. Optimizers: adamw is float32 parameters and two moments; "
    "adamw-mixed is bfloat16 parameters, float32 masters and moments; adamw-bf16 is all bfloat16; "
    "sgd-momentum is float32 parameters and one; none is bfloat16 parameters alone."
)
#: Those of ``dynatrain.planning``, which the command does not load before it plans: the library
#: may be what is broken where somebody asks for help.
MODELS = (
    "gpt3-6.7b",
    "llama2-7b",
    "llama2-13b",
    "llama2-70b",
    "llama3-8b",
    "llama3-70b",
    "llama3-405b",
    "qwen3-32b",
    "mixtral-8x7b",
    "qwen3-30b-a3b",
    "qwen3-235b-a22b",
    "deepseek-v3",
)
OPTIMIZERS = ("adamw", "adamw-mixed", "adamw-bf16", "sgd-momentum", "none")
TOPOLOGIES = ("dgx-a100", "dgx-h100", "dgx-h200", "gb200-nvl72", "one-host")

_MOST_STAGING_MIB = 2**40
#: From here on nobody should wonder whether the command hangs.
MANY_RANKS = 2048
_MOST_RANKS = 1 << 15  #: of source and target together


def add_options(command: argparse.ArgumentParser) -> None:
    """Two layouts, a model and its links."""
    add = command.add_argument
    add("layouts", nargs="*", metavar="layout", help="before and after, e.g. dp=4 dp=2,tp=2")
    add("--source", help="the layout before, in place of the first one")
    add("--target", help="the layout after, in place of the second one")
    add_model_options(command)


def add_model_options(command: argparse.ArgumentParser, *, needs_topology: bool = False) -> None:
    """A model and its links."""
    add = command.add_argument
    add(
        "--model",
        default="llama3-8b",
        help=f"one of {', '.join(MODELS)}, or the path of a config.json of Hugging Face; "
        "llama3-8b when left out",
    )
    add("--optimizer", default="adamw", choices=OPTIMIZERS, help="what training keeps")
    machine = "links of a machine that is known"
    add("--topology", choices=TOPOLOGIES, required=needs_topology, help=machine)
    add("--nodes", type=int, help="how many of these machines there are; as many as it takes")
    add("--link-gb-per-second", type=float, help="link of one rank, each direction; 25")
    add("--ranks-per-node", type=int, help="all on one node when not given")
    add("--json", action="store_true", help="print JSON instead of text")


def add_switch_options(command: argparse.ArgumentParser) -> None:
    """How a session makes its switches."""
    add = command.add_argument
    add("--staging-mib", type=int, default=256, help="staging of a rank; 256")
    add("--relabel", action="store_true", help="ranks take the places of which they have most")


def staging_bytes(options: argparse.Namespace) -> int:
    """The staging that was asked for; raises LayoutError."""
    if not 1 <= options.staging_mib <= _MOST_STAGING_MIB:
        expected = f"a whole number from 1 to {_MOST_STAGING_MIB}"
        raise out_of_range("--staging-mib", options.staging_mib, expected)
    return int(options.staging_mib) << 20


def warn_of_many(num_ranks: int) -> None:
    """Says that so many take their time; of more than can be planned, planning says so."""
    if MANY_RANKS < num_ranks <= _MOST_RANKS:
        sys.stderr.write(f"planning {num_ranks} ranks, which may take minutes\n")


def two_layouts(options: argparse.Namespace) -> tuple[str, str]:
    """The layouts that were given, by their places or by name; raises LayoutError."""
    from dynatrain import LayoutError

    given = list(options.layouts)
    source = options.source if options.source is not None else (given.pop(0) if given else None)
    target = options.target if options.target is not None else (given.pop(0) if given else None)
    if source is None or target is None or given:
        raise LayoutError(
            f"plan: got {'too many' if given else 'too few'} layouts\n"
            "  expected two, such as dp=4 dp=2,tp=2, or --source and --target\n"
            "  nothing was planned\n  give the layout before and the one after"
        )
    return source, target


def model_and_links(options: argparse.Namespace) -> tuple[Model, Topology]:
    """The model and the links that were asked for; raises LayoutError."""
    from dynatrain.planning import load_model

    return load_model(options.model, options.optimizer), _links(options)


def _links(options: argparse.Namespace) -> Topology:
    from dynatrain import LayoutError
    from dynatrain.planning import Topology, topology

    speed, per_node, nodes = options.link_gb_per_second, options.ranks_per_node, options.nodes
    if options.topology is not None and (speed, per_node) != (None, None):
        raise LayoutError(
            "plan: got --topology beside --link-gb-per-second or --ranks-per-node\n"
            "  expected the links of a known machine, or links of your own\n"
            "  nothing was planned\n  give one of the two"
        )
    for name, value in (("--ranks-per-node", per_node), ("--nodes", nodes)):
        if value is not None and not 1 <= value <= 2**30:
            raise out_of_range(name, value, f"a whole number from 1 to {2**30}")
    if speed is not None and not 1e-9 <= speed <= 1e27:  # a NaN neither
        raise out_of_range("--link-gb-per-second", speed, "a number from 1e-9 to 1e27")
    if nodes is not None and options.topology is None and per_node is None:
        raise out_of_range("--nodes", nodes, "--topology or --ranks-per-node beside it")
    if options.topology is not None:
        return topology(options.topology, nodes)
    link = 25e9 if speed is None else speed * 1e9
    return Topology(link_bytes_per_second=link, ranks_per_node=per_node, num_nodes=nodes)


def out_of_range(option: str, value: float, expected: str) -> Exception:
    """Returns the refusal of an option, in the words of the command line."""
    from dynatrain import LayoutError

    return LayoutError(
        f"plan: cannot use {option}={value}\n  expected {expected}\n  nothing was planned\n"
        f"  give {option} another value, or leave it out"
    )


def answered(work: Callable[[], None]) -> int:
    """Does what a command does; an error of the library is printed without a traceback."""
    from dynatrain import Error

    try:
        work()
    except Error as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was planned\n")
        return 130
    return 0


def printed(value: Any) -> None:
    """Prints JSON."""
    import json

    sys.stdout.write(json.dumps(value, indent=2) + "\n")
