"""Errors of a member whose world or whose part in the job ends otherwise than it should."""

from __future__ import annotations

from dynatrain._errors import InternalError, LayoutError, TransportError

#: The state cannot be put together from what is left of it.
STATE_GONE = "state-gone"
#: The others go on without this member, which it did not ask for.
LOST = "lost"
#: The coordinator is not heard.
ABANDONED = "abandoned"
#: The coordinator does not take it.
REFUSED = "refused"


def error_of(kind: str, why: str) -> TransportError | None:
    """What the loop of a script raises when its member ends.

    A script that went on behind its loop would take what lies in its memory for the job's state.

    Args:
        kind: of the end.
        why: in words.

    Returns:
        None where all steps are done, or the member was let go.
    """
    if kind == LOST:
        text = (
            f"elastic: this member is lost to its job: {why}\n"
            "  expected it to be heard of at least every twelfth of timeout_s, and to answer\n"
            "  it has ended; the others go on without it, and its state is no part of theirs any "
            "more\n"
            "  start this process again, it joins as another member unless the job has finished; "
            "see `dynatrain status`"
        )
    elif kind == ABANDONED:
        text = (
            f"elastic: this member has ended: {why}\n"
            "  expected a word of the coordinator within ten times timeout_s\n"
            "  nothing trains here; on the coordinator's side of the network others may go on\n"
            "  look after the coordinator and the way to it, then start this process again"
        )
    elif kind == REFUSED:
        text = (
            f"elastic: the coordinator does not take this process: {why}\n"
            "  expected the arguments that all members have, and a coordinator with this job's "
            "ledger\n"
            "  this process has ended its part; the others go on without it\n"
            "  start it again as they were started"
        )
    elif kind == STATE_GONE:
        text = (
            f"elastic: the state of this job is gone: {why}\n"
            "  expected each element of it at a member, in a snapshot or in a checkpoint\n"
            "  this member has ended; nothing trains, and no file was changed\n"
            "  start the job again from a checkpoint, with another ledger; join(..., "
            "snapshot_every=) keeps copies of a state on other members, checkpoint_dir= on disk"
        )
    else:
        return None
    return TransportError(text, retryable=False)


def given_up(target: str, epoch: int) -> TransportError:
    """What a switch raises whose vote has come to nothing."""
    return TransportError(
        f"elastic: the switch to {target} after epoch {epoch} was given up\n"
        "  expected all members to have moved their part of the state\n"
        "  nothing was switched; the source state is intact and training goes on\n"
        "  `dynatrain status` tells why; the coordinator tries again"
    )


def undecided(target: str, heard: str) -> InternalError:
    """What a switch raises whose decision cannot be learnt."""
    return InternalError(
        f"elastic: this member could not learn whether the switch to {target} was decided: "
        f"{heard}\n"
        "  expected the coordinator to say so within the deadline\n"
        "  this member has switched nothing, but others may have; it trains in neither world\n"
        "  end this process; the others go on without it"
    )


def other_timeout(own_s: float, theirs_s: float) -> LayoutError:
    """What a process raises that is no member yet, and whose coordinator has another deadline."""
    return LayoutError(
        f"elastic: join(timeout_s={own_s:g}), and the coordinator has --timeout-s {theirs_s:g}\n"
        "  expected one deadline in all of a job: a member that is heard as often as it was told "
        "would count as lost, or one that is lost as there\n"
        "  this process has not joined; the job is as it was\n"
        "  give both the same"
    )


def no_store() -> TransportError:
    """What is raised where members are to meet over the store while there is none."""
    return TransportError(
        "elastic: the store of this job is with its coordinator, which is not there\n"
        "  expected one at an address that this member was given\n"
        "  training goes on; changes and snapshots that need the store wait\n"
        "  start a coordinator with the ledger of this job"
    )
