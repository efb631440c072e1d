"""What one rank refuses a call with is the same kind of error on all, with the same facts."""

from __future__ import annotations

from dynatrain import BudgetError
from sessions import start


class Short:
    """A kept object that has no memory for a layout with tensor parallelism, on one rank."""

    def __init__(self, rank):
        self.refuses = rank == 2

    def check_layout(self, layout):
        if self.refuses and layout.tp > 1:
            raise BudgetError("no room for the cache", 30, 20)


def refuse_on_one_rank(rank, world_size):
    session = start(keep={"cache": Short(rank)})
    out = []
    for call in (session.switch, session.prepare, session.check):
        try:
            call("dp=2,tp=2")
        except BudgetError as error:
            out.append((error.required_bytes, error.budget_bytes, str(error)))
    return out, session.switch("dp=4").epoch


# A script that goes to a smaller layout when memory is short has to do so on all ranks.
def test_budget_error_of_one_rank_is_a_budget_error_on_all(pool):
    for out, epoch in pool.run(refuse_on_one_rank):
        assert epoch == 1
        assert [facts for *facts, _ in out] == [[30, 20]] * 3
        assert all("no room for the cache" in text for *_, text in out)
