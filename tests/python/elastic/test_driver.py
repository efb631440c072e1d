"""The training thread of a member in its attempts: what fails is told, and what stands is known."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace

import pytest
from torch.distributed import DistNetworkError

from driven_members import (
    WAIT,
    FakeGeneration,
    driven,
    raising,
    voting,
)
from dynatrain import BudgetError, LayoutError, TransportError
from dynatrain._errors import LostStateError, like
from dynatrain.elastic.asked import Asked
from dynatrain.elastic.attempts import members_of
from dynatrain.generation.connections import Connections


# The others wait for its vote until their deadline otherwise; its state is whole.
def test_a_member_that_fails_before_its_vote_says_no_and_trains_on():
    driver, session, part = driven(raising(BudgetError("no room", 1, 0)), Asked("train"))

    assert driver.may_train()
    assert part.told == ["refused: BudgetError: no room"]
    assert session.went_back == 1


# The member ended by a KeyError: its attempt was dropped with the one that had just been decided.
def test_an_attempt_that_is_prepared_while_another_is_installed_stays():
    driver, _, part = driven(voting(), Asked("install"), Asked("switch", 2, 4), Asked("install"))
    part.asked.append(Asked("train"))
    first = driver._attempts.find(1)
    driver._attempts.stand(
        2, replace(first, generation=FakeGeneration(), world=3), Connections(WAIT)
    )

    assert driver.may_train()
    assert part.told == ["yes", "yes"]
    assert driver._attempts.find(1) is None
    assert driver._attempts.find(2) is None


# Whether it has voted decides whether it may train on.
def test_a_vote_may_count_once_the_coordinator_was_told():
    seen = []

    def go(vote):
        seen.append(session.vote.may_count())
        vote("dp=2", 0)
        seen.append(session.vote.may_count())
        return "a report"

    driver, session, _ = driven(go, Asked("install"), Asked("train"))

    assert driver.may_train()
    assert seen == [False, True]


# Its coordinator lets it go at the decision. It was ended while it told the others its numbers, and
# all took it for dead.
def test_a_member_that_is_left_out_ends_the_switch_with_the_others():
    seen = []
    released = Asked("end", why=("released", ""))

    def go(vote):
        vote("dp=2", 0)
        driver.interrupt(released)
        seen.extend(session.aborted)
        return "a report"

    driver, session, _ = driven(go, Asked("retire"), Asked("train"))

    assert driver.may_train()
    assert seen == []
    driver.interrupt(released)  # behind the switch nobody needs it
    assert session.aborted


@pytest.mark.parametrize("why", ["lost", "grace-over"])
def test_a_member_that_the_others_go_on_without_is_ended_at_once(why):
    driver, session, _ = driven(voting())
    driver._vote_is = 1

    driver.interrupt(Asked("end", why=(why, "")))

    assert session.aborted == ["this member has ended"]


# The script went on behind its loop with a state that is no part of the job's, and its process
# ended with status 0: a launcher took it for done.
@pytest.mark.parametrize("why", ["lost", "abandoned"])
def test_a_member_that_was_not_let_go_leaves_its_loop_by_an_error(why):
    driver, *_ = driven(voting(), Asked("end", why=(why, "no heartbeat for 5000 ms")))
    driver.part.asked.pop(0)

    with pytest.raises(TransportError, match="no heartbeat for 5000 ms"):
        driver.may_train()

    assert driver.ended[0] == why


# Its last step is undone: the others go back to before it.
def test_a_member_that_is_lost_in_its_last_step_is_told():
    driver, *_ = driven(voting(), Asked("end", why=("lost", "no heartbeat for 5000 ms")))
    driver.part.asked.pop(0)

    assert not driver.finish()
    with pytest.raises(TransportError, match="no heartbeat for 5000 ms"):
        driver.may_train()


class Copies:
    """Snapshots that are forgotten."""

    forgotten = 0

    def forget(self):
        self.forgotten += 1

    def at_boundary(self, version):
        """Nothing is copied."""


def test_copies_are_forgotten_when_they_are_of_no_use():
    driver, *_ = driven(voting(), Asked("forget"), Asked("train"))
    driver.part.asked.pop(0)
    driver._snapshots = Copies()

    assert driver.may_train()
    assert driver._snapshots.forgotten == 1


# Of a world before: those of the new one are made from its first boundary on.
def test_copies_are_forgotten_between_a_vote_and_its_decision():
    driver, *_ = driven(voting(), Asked("forget"), Asked("discard", 1), Asked("train"))
    driver._snapshots = Copies()

    assert driver.may_train()
    assert driver._snapshots.forgotten == 1


def test_who_brings_nothing_but_copies_comes_last():
    source, target = {"members": [7, 8]}, {"members": [5, 8]}
    facts = {"source": source, "target": target, "holdings": [0, 3, 3], "former": [9, 6]}

    assert members_of(facts) == [5, 8, 9, 6]


@pytest.mark.parametrize("why", ["released", "grace-over", "finished"])
def test_a_member_that_was_let_go_ends_its_loop(why):
    driver, *_ = driven(voting(), Asked("end", why=(why, "")))
    driver.part.asked.pop(0)

    assert not driver.may_train()


# Gradients that are there at this step are not at the next: nobody may call the target impossible.
def test_what_only_the_moment_forbids_is_no_refusal_of_the_target():
    error = like(LayoutError("gradients", is_momentary=True), "rank 1: gradients")
    driver, _, part = driven(raising(error), Asked("train"))

    assert driver.may_train()
    assert part.told == ["no: LayoutError: rank 1: gradients"]


# A session that has to prepare anew lets go of what was prepared; a second one who holds it would
# have two targets beside the source.
def test_nobody_but_the_session_holds_a_target_while_it_switches():
    seen = []

    def go(vote):
        seen.extend(driver._attempts.find(1).standing)
        raise BudgetError("no room", 1, 0)

    driver, session, _ = driven(go, Asked("train"))
    driver._attempts.find(1).standing.append("the target")
    driver.may_train()

    assert session.adopted == "the target"
    assert seen == []


# Of the library's errors a switch goes back; what is none ends the script, and the others hear it.
def test_what_is_no_error_of_the_family_is_told_before_it_ends_the_script():
    driver, _, part = driven(raising(KeyError("mine")))

    with pytest.raises(KeyError):
        driver.may_train()
    assert part.told == ["no: KeyError: 'mine'"]


# It has said yes: others may stand in the new world, and nobody may say that it goes on as before.
def test_a_member_that_fails_behind_its_vote_does_not_train_on():
    driver, session, part = driven(voting())
    part.moved = lambda attempt: (_ for _ in ()).throw(BudgetError("no room", 1, 0))

    with pytest.raises(BudgetError):
        driver.may_train()
    assert part.told == []
    assert session.went_back == 0


# The world has changed on all members. It was taken for a failed switch: the member went on with
# the groups of the former world, and voted again.
@pytest.mark.parametrize("error", [LayoutError("of a callback"), ValueError("of a callback")])
def test_what_a_callback_raises_behind_the_decision_undoes_nothing(error):
    driver, session, part = driven(voting(error), Asked("install", 1))
    former, ready = driver._present, driver._attempts.find(1)

    with pytest.raises(type(error), match="of a callback"):
        driver.may_train()
    assert (part.told, session.went_back) == (["yes"], 0)
    assert driver._present is ready.generation
    assert (former.is_closed, ready.generation.is_closed) == (True, False)


# Gloo takes 40 ms to end groups: twice as long as the switch that all have waited for.
def test_groups_of_an_attempt_that_is_given_up_do_not_hold_up_training():
    driver, _, part = driven(voting())
    dropped = driver._attempts.find(1).generation
    part.asked = [Asked("discard", 1), Asked("train")]

    assert driver.may_train()
    assert dropped.is_closed


# Who reads the output of one member alone could not tell why it stood still.
def test_a_break_that_is_handled_is_logged(caplog):
    driver, _, part = driven(voting())
    part.asked = []

    with caplog.at_level(logging.INFO, "dynatrain.elastic"):
        assert driver.survives(DistNetworkError("peer is gone"))
    assert part.told == ["step broke"]
    assert "step 3 failed in its communication" in caplog.text
    assert "peer is gone" in caplog.text


# A step that fails again and again is the script's own mistake.
def test_a_step_that_keeps_failing_is_the_scripts_error():
    driver, _, part = driven(voting())
    part.asked = []

    assert [driver.survives(DistNetworkError("again")) for _ in range(4)] == [True] * 3 + [False]


def losing(text="no rank may train on"):
    """A switch that is decided, and whose state is lost on its way."""
    return voting(LostStateError(text))


# The machine lets the step of a committed world begin at once: it would be one on parts of a state.
def test_a_member_whose_state_is_lost_on_the_way_trains_no_step_before_a_halt():
    asked = (Asked("install", 1), Asked("train"), Asked("stop", why=("", "a step failed")))
    driver, session, part = driven(losing(), *asked, Asked("end", why=("released", "")))

    assert not driver.may_train()
    assert part.told == ["yes", "step broke", "stopped"]
    assert session.went_back == 0
    assert driver._present is not None


# Its own code may be what fails: nobody else is lost, and it would fail so for ever.
def test_a_state_that_is_lost_again_and_again_ends_the_member():
    driver, _, part = driven(losing("its own code"))
    attempt = driver._attempts.find(1)
    kinds = ("switch", "install", "train", "stop", "train")
    for _ in range(3):
        part.asked = [Asked(kind, 1, 3) for kind in kinds]
        driver._attempts.stand(1, attempt, Connections(WAIT))
        assert driver.may_train()

    part.asked = [Asked(kind, 1, 3) for kind in kinds]
    driver._attempts.stand(1, attempt, Connections(WAIT))
    with pytest.raises(LostStateError, match="its own code"):
        driver.may_train()


# Who hangs in the exchanges of a switch that was decided hears of a death by their end alone.
@pytest.mark.parametrize("kind", ["stop", "end"])
def test_a_halt_behind_the_decision_ends_the_exchanges_of_the_switch(kind):
    later = Asked(kind, why=("lost", "it was silent"))

    def go(vote):
        vote("dp=2", 0)
        return generation.aborted

    driver, _, _ = driven(go, Asked("install", 1), later, Asked("train"))
    generation = driver._attempts.find(1).generation
    with suppress(TransportError):
        driver.may_train()

    assert generation.aborted == ["a member is lost" if kind == "stop" else "this member has ended"]
