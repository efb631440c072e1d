"""What to do about errors of torch in ``build``: its own advice leads astray there."""

from __future__ import annotations

#: Words of an error of torch, and what to do in build; the first that fit count.
_CURES = (
    (
        ("moving module from meta",),
        "leave .to(device) and .cuda() out of build: it runs under the meta device, and the "
        "session places what it returns",
    ),
    (
        ("out of meta tensor",),
        "leave .to(device), .cuda() and .cpu() out of build: it runs under the meta device, and "
        "the session places what it returns\n"
        "  what build reads a number of has to lie in memory: make it with device='cpu'",
    ),
    (
        ("meta tensor", "meta device type tensor"),
        "what build reads a number of has to lie in memory: make it with device='cpu', as "
        "AdamW(params, lr=torch.tensor(0.1, device='cpu'))",
    ),
    (
        ("no nvidia driver", "not compiled with cuda", "no cuda gpus"),
        "move nothing to a GPU in build: leave .cuda() and .to('cuda') out, as the session places "
        "what build returns (dynatrain.init(..., device=)); a constant is made with "
        "device=world.device",
    ),
    (
        ("can only be applied to a module once",),
        "make the model inside build, in every call: build is called more often than there are "
        "layouts, and a model that it has sharded cannot be sharded again",
    ),
    (
        ("invalid mesh_dim_name",),
        "name a dimension that the layout has: pp, dp_replicate, dp_shard, cp and tp, each only "
        "where world.enabled(name), as axes of one rank are none; dp is Layout's shorthand for "
        "dp_shard\n"
        "  world.submesh('dp') is the mesh over those of dp_replicate and dp_shard that there are, "
        "or None",
    ),
)


def cure(error: Exception) -> str | None:
    """What to do about ``error``; None where it is none of those that are known."""
    if not isinstance(error, RuntimeError | TypeError | AssertionError | KeyError):
        return None
    try:
        said = str(error).lower()
    except Exception:  # noqa: BLE001 - an error of the script's that cannot even be shown
        return None
    return next((advice for words, advice in _CURES if any(word in said for word in words)), None)
