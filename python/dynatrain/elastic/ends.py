"""How a member has ended, and the error where its job neither is done nor has let it go."""

from __future__ import annotations

from dynatrain._errors import TransportError

#: The state cannot be put together from what is left of it.
STATE_GONE = "state-gone"
#: The others go on without this member, which it did not ask for.
LOST = "lost"
#: The coordinator is not heard.
ABANDONED = "abandoned"


def error_of(kind: str, why: str) -> TransportError | None:
    """What the loop of a script raises when its member ends.

    A script that went on behind its loop would take what lies in its memory for the job's state.

    Args:
        kind: of the end.
        why: in words.

    Returns:
        None where the script wanted it so: all steps are done, or it has asked to be left out.
    """
    if kind == LOST:
        text = (
            f"elastic: this member is lost to its job: {why}\n"
            "  expected it to be heard of at least every twelfth of timeout_s, and to answer\n"
            "  it has ended; the others go on without it, and its state is no part of theirs any "
            "more\n"
            "  start this process again, it joins as another member; see `dynatrain status`"
        )
    elif kind == ABANDONED:
        text = (
            f"elastic: this member has ended: {why}\n"
            "  expected a word of the coordinator within ten times timeout_s\n"
            "  nothing trains here; on the coordinator's side of the network others may go on\n"
            "  look after the coordinator and the way to it, then start this process again"
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
