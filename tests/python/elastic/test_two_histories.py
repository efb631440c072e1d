"""One number of steps, come to twice with other bits: copies of the two are never joined."""

from __future__ import annotations

from dynatrain.elastic.copies import CopiedState, SnapshotSlots


def copy(slots, version, history):
    """Copies the state of a version, in the world of an epoch that tells its history."""
    nothing = frozenset()
    slots.spare.forget()
    slots.spare.own = CopiedState(
        history, "dp=2", version, "a member", 0, b"", {}, None, {}, nothing, nothing
    )


def whole(members, version, history):
    """A version that comes to all, and to their keepers."""
    for slots in members:
        copy(slots, version, history)
        slots.is_whole()


def histories(members, version):
    """Those that the copies of a version are of, for each member that has one."""
    return [slots.of(version).own.epoch for slots in members if version in slots.versions]


# The job went back from step 20 to step 10, and came to step 20 again, in another layout and with
# other bits. One member has copied that, the other one was killed at it or is late. Were the copies
# of the first step 20 still there, the two would be one version to all who ask.
def test_one_version_of_two_histories_is_never_joined():
    members = [SnapshotSlots(), SnapshotSlots()]
    whole(members, 10, history=1)
    whole(members, 20, history=1)
    for slots in members:
        slots.follow(10)
    copy(members[0], 20, history=2)

    assert histories(members, 10) == [1, 1]
    assert histories(members, 20) == [2]


# The older copies are the only ones now: the next copy must not go where they are.
def test_what_is_left_is_not_written_over_by_the_next_copy():
    members = [SnapshotSlots(), SnapshotSlots()]
    whole(members, 10, history=1)
    whole(members, 20, history=1)
    for slots in members:
        slots.follow(10)
        copy(slots, 15, history=2)

    assert histories(members, 10) == [1, 1]


# Who had no place in the world before does not know what led to the state that it takes in.
def test_one_who_was_in_no_world_forgets_all():
    members = [SnapshotSlots()]
    whole(members, 10, history=1)
    members[0].follow(-1)

    assert members[0].versions == []
