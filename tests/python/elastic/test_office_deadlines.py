"""How long a coordinator keeps its office, and how long others wait: one number, in one order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynatrain import LayoutError
from dynatrain.elastic.deadlines import check_office_deadlines, office_deadlines


# A job is given one number; each that the protocol takes has to be one that this room takes, too.
@pytest.mark.parametrize("timeout_s", [1.2, 5, 29.9, 60, 3600, 86400])
def test_the_deadlines_of_every_timeout_are_in_order(timeout_s):
    check_office_deadlines(office_deadlines(timeout_s))


# A member that has voted ends as undecided before anybody can tell it what was decided.
def test_a_lease_beyond_the_patience_of_a_member_is_refused():
    deadlines = office_deadlines(60.0)
    with pytest.raises(LayoutError, match=r"lease \+ poll \+ lost_after must be less than decisi"):
        check_office_deadlines(replace(deadlines, lease=deadlines.decision))


# It hears nobody meanwhile, nor is heard: a coordinator that lives would take it for lost.
def test_a_connection_that_is_waited_for_too_long_is_refused():
    deadlines = office_deadlines(60.0)
    with pytest.raises(LayoutError, match=r"connect \+ heartbeat must be less than lost_after"):
        check_office_deadlines(replace(deadlines, connect=deadlines.lost_after / 2))
