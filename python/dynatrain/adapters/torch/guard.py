"""Runs the user's ``build`` under watch: no collective, no random draw, no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dynatrain._errors import Error, LayoutError
from dynatrain._torch_private.groups import groups_watched, place_in_job
from dynatrain._torch_private.tensors import clear_sharding_cache, orthogonal_on_meta
from dynatrain.adapters.torch import wrappers, zero
from dynatrain.adapters.torch.cures import cure
from dynatrain.adapters.torch.optimizers import holders
from dynatrain.adapters.torch.streams import random_streams, read_streams
from dynatrain.given import described
from dynatrain.train_state import TrainState

_COLLECTIVES = ("c10d", "_c10d_functional", "c10d_functional")
#: Where the random streams stand while ``build`` runs: a script that seeds as its build does would
#: otherwise leave them as it found them, and only a later switch would find out.
_SEED_OF_BUILD = 0x6479_6E61_7472_6169


class _NoCollectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # signature of torch
        if func.namespace in _COLLECTIVES:
            raise LayoutError(
                f"session: build ran the collective {func}\n"
                "  expected build to communicate with nobody: other ranks are training\n"
                "  nothing was switched; the source state is intact\n"
                "  move it behind dynatrain.init(..., initialize=), or take the group from world; "
                "make the model inside build, as weights with memory are sent when they are cut"
            )
        return func(*args, **(kwargs or {}))


def _made_a_group(ranks: list[int]) -> LayoutError:
    if len(ranks) == place_in_job()[1]:
        return LayoutError(
            f"session: build made a mesh, or a process group, of all ranks of the job, {ranks}\n"
            "  expected meshes of the world alone, which has fewer ranks in another layout: "
            "fully_shard(model) without mesh= takes one of all ranks\n"
            "  nothing was switched; the source state is intact\n"
            '  give it the world\'s, as fully_shard(model, mesh=world.mesh["dp_shard"]) or '
            "mesh=world.submesh(...); or make it in dynatrain.init(..., groups=) and read "
            "world.groups"
        )
    return LayoutError(
        f"session: build made a process group, or a mesh with one, of the ranks {ranks}\n"
        "  expected build to make none: a rank that idles in the layout runs no build, and the "
        "others would wait for it\n"
        "  nothing was switched; the source state is intact\n"
        "  make it in dynatrain.init(..., groups=), which all ranks call before build, and read "
        "world.groups; or take it from world.group(...) or world.mesh_over(...)"
    )


@contextmanager
def _no_meshes_of_others() -> Iterator[None]:
    """What DTensor caches names meshes by equality, and other worlds may have equal ones.

    The build would get results on their meshes, and after it the present model on the build's.
    """
    clear_sharding_cache()
    try:
        yield
    finally:
        clear_sharding_cache()


def build_for_real(make: Callable[[], object], device: torch.device) -> TrainState:
    """Calls ``make()`` under ``device``; raises LayoutError when it returned no TrainState."""
    with torch.device(device), _no_meshes_of_others():
        try:
            made = make()
        except Exception as error:
            if cure(error) is None:
                raise
            raise LayoutError(
                f"session: the first build raised {described(error)}\n"
                f"  on the device {device}; it had run under the meta device before, on trial\n"
                "  nothing was switched; the source state is intact\n"
                f"  {_advice(error)}the traceback above this error says where"
            ) from error
        return checked_state(made)


def build_on_meta(make: Callable[[], object], place: str, device: torch.device) -> TrainState:
    """Calls ``make()``, the user's build for the world ``place``, under the meta device.

    Raises:
        LayoutError: build raised, ran a collective, made a group, drew a random number, or returned
            something else than a TrainState. Random streams are put back as they were.
    """
    before = read_streams(device)
    for _, _, seed in random_streams(device).values():
        seed(_SEED_OF_BUILD)
    own = read_streams(device)
    try:
        with (
            torch.device("meta"),
            _NoCollectives(),  # type: ignore[no-untyped-call]
            _no_meshes_of_others(),
            groups_watched(_made_a_group),
            orthogonal_on_meta(),
        ):
            state = make()
    except Exception as error:
        wrapped = wrappers.of_a_wrapper(error)
        if wrapped is not None:
            raise wrapped from error
        if isinstance(error, Error):
            raise
        raise LayoutError(
            f"session: build raised {described(error)}\n"
            f"  in {place}, under the meta device\n"
            "  nothing was switched; the source state is intact\n"
            f"  {_advice(error)}the traceback above this error says where"
        ) from error
    finally:
        after = read_streams(device)
        _put_back(device, before)
    checked = checked_state(state)  # first: a wrapper may draw numbers for what it makes
    disturbed = [name for name in own if after[name] != own[name]]
    if disturbed:
        raise LayoutError(
            f"session: build seeded or drew random numbers, of {', '.join(disturbed)}\n"
            "  expected build to do neither: the streams of a run must not depend on its switches\n"
            "  nothing was switched; the streams were put back and the source state is intact\n"
            "  take torch.manual_seed() and its like out of build and call them before "
            "dynatrain.init; draw in initialize=, which runs once"
        )
    return checked


def _advice(error: Exception) -> str:
    """A line of advice, or nothing."""
    known = cure(error)
    return "" if known is None else f"{known}\n  "


def _put_back(device: torch.device, states: dict[str, bytes]) -> None:
    for name, (_, put, _) in random_streams(device).items():
        put(states[name])


def checked_state(state: object) -> TrainState:
    """Returns ``state`` when it is a TrainState that can travel; raises LayoutError otherwise."""
    if not isinstance(state, TrainState):
        raise LayoutError(
            f"session: build returned a {type(state).__name__}\n"
            "  expected a dynatrain.TrainState\n"
            "  nothing was switched; the source state is intact\n"
            "  end build with: return TrainState(model=..., optimizer=...)"
        )
    wrappers.check_built(state)
    zero.check_built(state)
    return state


def check_apart(built: TrainState, present: TrainState) -> None:
    """Refuses what ``build`` returned when a switch would write into the present state by it.

    Raises:
        LayoutError: it is the present state, or has an optimizer of it.
    """
    of_present = {id(item) for holder in holders(present) for item in holder.all}
    shared = [h.words for h in holders(built) if not of_present.isdisjoint(map(id, h.all))]
    if built is present or shared:
        what = "the TrainState" if built is present else shared[0]
        raise LayoutError(
            f"session: build returned {what} of an earlier call again\n"
            "  expected a state made anew in every call: a switch fills it while it reads the "
            "former one\n"
            "  nothing was switched; the source state is intact\n"
            "  make model, optimizer and TrainState inside build, in every call"
        )
    options = (v for each in holders(present) for group in each.groups for v in group.values())
    built.note_present(present, [value for value in options if isinstance(value, torch.Tensor)])
