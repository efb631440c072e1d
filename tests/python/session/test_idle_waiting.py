"""What a rank that idles hears, whatever happens between two of its looks at the store."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest
from torch.distributed import HashStore

from dynatrain import TransportError
from dynatrain.attending import Attendant
from dynatrain.generation.rendezvous import Rendezvous

SHORT, LONG = timedelta(seconds=0.05), timedelta(seconds=20)


class Interposed:
    """A store in which something happens just before the idle rank looks for the n-th time."""

    def __init__(self, store, before, happens):
        self._store, self._before, self._happens = store, before, happens

    def check(self, keys):
        if self._before == 0:
            self._happens()
        self._before -= 1
        return self._store.check(keys)


class Trainer:
    """The rank that trains; its deadline passes at once unless the idle rank comes."""

    def __init__(self, store):
        self.member = Rendezvous(store, 0, 2, SHORT)

    def calls(self):
        """A call that nobody has answered yet."""
        self.member._store.add(f"{self.member._attempt}/count", 1)

    def gives_up_a_call(self):
        with pytest.raises(TransportError, match=r"\[1\]"):
            self.member.meet(b"")

    def ends_its_loop(self):
        self.member.leave("ended/1", "3", 1)


#: More looks than one round of waiting takes.
LOOKS = range(7)


def heard(before, *happens):
    """What an idle rank hears when the trainer does all of ``happens`` between two of its looks."""
    store = HashStore()
    trainer, idle = Trainer(store), Rendezvous(store, 1, 2, LONG)

    def do_all():
        for act in happens:
            act(trainer)

    idle._store = Interposed(idle._store, before, do_all)
    return idle.wait_called("ended/1")


@pytest.mark.parametrize("before", LOOKS)
def test_call_of_the_loop_is_attended(before):
    assert heard(before, Trainer.calls) is True


@pytest.mark.parametrize("before", LOOKS)
def test_end_of_the_loop_is_heard(before):
    assert heard(before, Trainer.ends_its_loop) is False


# All ranks make such a call from their scripts: an idle rank that attended it in its loop would
# make it once more, alone, and wait there for the deadline.
@pytest.mark.parametrize("before", LOOKS)
def test_call_made_after_the_loop_is_left_to_the_script(before):
    assert heard(before, Trainer.ends_its_loop, Trainer.calls) is False


# The trainer left its loop with an error: nobody is there to be met.
@pytest.mark.parametrize("before", LOOKS)
def test_call_that_was_given_up_does_not_outlive_the_loop(before):
    assert heard(before, Trainer.gives_up_a_call, Trainer.ends_its_loop) is False


@pytest.mark.parametrize("before", LOOKS)
def test_call_after_one_that_was_given_up_is_attended(before):
    assert heard(before, Trainer.gives_up_a_call, Trainer.calls) is True


def one_of_two_leaves(*happens):
    """What an idle rank hears when one of two trainers has left its loop."""
    store = HashStore()
    trainer, idle = Rendezvous(store, 0, 3, SHORT), Rendezvous(store, 1, 3, SHORT)
    trainer.leave("ended/1", "3", 2)
    for act in happens:
        act(trainer)
    return idle.wait_called("ended/1")


# An exception in the body of one rank ended the loop of all that idle, as if training were done:
# their processes ended with 0 while the others trained on.
def test_one_rank_that_leaves_does_not_end_the_loop_of_those_that_idle():
    def other_calls(trainer):
        trainer._store.add("0/count", 1)

    assert one_of_two_leaves(other_calls) is True


def test_rank_that_idles_does_not_wait_for_ever_for_the_others_to_leave():
    with pytest.raises(TransportError, match=r"rank 0 has left the loop.*(?s:.)*others have not"):
        one_of_two_leaves()


def test_loop_is_over_when_all_have_left():
    store = HashStore()
    trainers = [Rendezvous(store, rank, 3, SHORT) for rank in (0, 2)]
    for trainer in trainers:
        trainer.leave("ended/1", "3", 2)

    assert Rendezvous(store, 1, 3, SHORT).wait_called("ended/1") is False


# The call is of a script that is behind its loop: the idle rank makes it there, too.
def test_call_of_one_that_has_left_ends_the_loop():
    def calls(trainer):
        with pytest.raises(TransportError):
            trainer.meet(b"")
        trainer._store.add("1/count", 1)

    assert one_of_two_leaves(calls) is False


def idle_rank():
    """The last of three ranks, and a store that is held by none of them."""
    store = HashStore()
    return Rendezvous(store, 2, 3, SHORT), [Rendezvous(store, rank, 3, SHORT) for rank in (0, 1)]


# The store may outlive all that train, as a launcher's does: an idle rank asked it for ever.
def test_rank_that_idles_does_not_outlive_the_others():
    idle, _ = idle_rank()
    with pytest.raises(TransportError, match=r"2 of this rank's connections(?s:.)*has died"):
        idle.wait_called("ended/1", lambda: 2)


# A call that ended on it alone has let go of its groups: it lives, and calls again some time.
def test_rank_that_has_said_that_it_lives_is_waited_for():
    idle, (first, second) = idle_rank()
    first.failed("KeyboardInterrupt: ")
    looks = []

    def lost():
        looks.append(1)
        if len(looks) == 5:
            second._store.add("0/count", 1)
        return 1

    assert idle.wait_called("ended/1", lost) is True


def test_one_that_said_that_it_lives_does_not_speak_for_another():
    idle, (first, _) = idle_rank()
    first.failed("KeyboardInterrupt: ")
    with pytest.raises(TransportError, match="has died"):
        idle.wait_called("ended/1", lambda: 2)


# Groups that all ranks have made anew have all their connections.
def test_connections_that_stand_again_are_no_loss():
    idle, (first, _) = idle_rank()
    counts = iter([1, 0] * 4)

    def lost():
        found = next(counts, None)
        if found is None:
            first._store.add("0/count", 1)
        return found or 0

    assert idle.wait_called("ended/1", lost) is True


# Ranks end when they have left their loop; who idles may hear of both at once.
def test_end_of_the_loop_is_heard_before_the_loss_of_those_that_ended():
    idle, trainers = idle_rank()
    for trainer in trainers:
        trainer.leave("ended/1", "3", 2)

    assert idle.wait_called("ended/1", lambda: 2) is False


def test_rank_that_attends_watches_its_connections():
    idle, _ = idle_rank()
    part = SimpleNamespace(
        present=SimpleNamespace(world=None),
        generation=SimpleNamespace(
            meeting=idle, control=SimpleNamespace(num_lost=lambda: 2), connected=True
        ),
    )
    with pytest.raises(TransportError, match="has died"):
        Attendant(part, ()).await_activity("ended/1")
