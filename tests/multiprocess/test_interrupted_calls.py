"""An exception that is no Exception ends a call on one rank: the others hear of it at once."""

from __future__ import annotations

import pytest

from dynatrain import TransportError
from sessions import start


def interrupt(*_, **__):
    raise KeyboardInterrupt


METHOD_OF = {"reading values": "values", "planning": "make_slots", "handing over": "take_values"}


def switch_interrupted(rank, world_size, place):
    session = start("dp=4")
    before = session.fingerprint()
    if rank == 1:
        setattr(session._part.adapter, METHOD_OF[place], interrupt)
    told = None
    try:
        session.switch("dp=2,tp=2")
    except (KeyboardInterrupt, TransportError) as error:
        told = type(error).__name__
    if rank == 1:
        delattr(session._part.adapter, METHOD_OF[place])
    after = session.fingerprint()
    report = session.switch("dp=2,tp=2")
    return told, before == after, report.epoch


# The others sat in the exchange to the deadline; afterwards its group was out of step and not known
# to be lost, so that ranks read the answers of another exchange.
@pytest.mark.parametrize("place", METHOD_OF)
def test_the_others_hear_at_once_and_the_next_call_works(pool, place):
    answers = pool.run(switch_interrupted, place, timeout_s=90)

    assert [told for told, *_ in answers] == [
        "KeyboardInterrupt" if rank == 1 else "TransportError" for rank in range(4)
    ]
    assert all(intact for _, intact, _ in answers)
    assert {epoch for *_, epoch in answers} == {1}


def fall_out_of_step(rank, world_size):
    session = start("dp=4", timeout_s=20)
    if rank == 2:
        session._part.engine.control._number += 1  # as after an exchange that it made alone
    with pytest.raises(TransportError, match="out of step") as error:
        session.fingerprint()
    return str(error.value), session.fingerprint()


def test_an_answer_of_another_exchange_is_refused(pool):
    answers = pool.run(fall_out_of_step, timeout_s=60)

    assert "ranks [2] are in another exchange" in answers[0][0]
    assert "ranks [0, 1, 3] are in another exchange" in answers[2][0]
    assert len({fingerprint for _, fingerprint in answers}) == 1
