"""What a switch may take of memory, and what is said when it cannot have it."""

from __future__ import annotations

from dynatrain._errors import BudgetError
from dynatrain.generation.options import Options
from dynatrain.given import first_line


def check_budget(rank: int, extra_bytes: int, options: Options) -> None:
    """Raises BudgetError when a switch needs more beside the source than it may take."""
    budget_bytes = options.memory_budget_bytes
    if budget_bytes is not None and extra_bytes > budget_bytes:
        may_stream = options.mode == "retain" and not options.shares_memory
        stream = "; mode='auto' of dynatrain.init frees the source meanwhile" if may_stream else ""
        raise BudgetError(
            f"session: the switch needs {extra_bytes} bytes beside the source on rank {rank}\n"
            f"  the budget is {budget_bytes} bytes\n"
            "  nothing was moved; the source state is intact\n"
            f"  raise memory_budget_bytes, or lower staging_budget_bytes{stream}",
            extra_bytes,
            budget_bytes,
        )


def no_memory(rank: int, fresh_bytes: int, staging_bytes: int, error: Exception) -> BudgetError:
    """What an allocator's refusal is to the caller of a switch."""
    needed = fresh_bytes + staging_bytes
    return BudgetError(
        f"session: rank {rank} has no memory for its target: {first_line(error)}\n"
        f"  the switch needs {fresh_bytes} bytes for it beside the source, and {staging_bytes} of "
        "staging\n"
        "  nothing was moved; the source state is intact and training may go on\n"
        f"  free {needed} bytes on this rank, lower staging_budget_bytes, or switch to a layout "
        "that shards more (a larger dp, tp or pp)",
        needed,
    )
