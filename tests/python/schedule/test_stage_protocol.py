"""Every interleaving of what the ranks of small worlds do in their stages (law 6).

The model is tests/spin/stage_protocol.pml; what each rank does in it, tests/spin/step_tables.cpp
reads from real schedules.
"""

from __future__ import annotations

import pytest

from spin_checks import checked, step_tables

#: Memory that is freed behind words, each by itself.
IN_ROUNDS = ("STREAM", "ROUNDS")

SMALL = [
    ("direct_2", 3, ()),
    ("uneven_3", 3, ()),
    ("dp_to_tp_3", 2, ("IN_ORDER",)),
    ("one_way_3", 3, ("STREAM", "BUFFERED")),
    ("without_traffic_4", 2, ("STREAM",)),
    ("pp_reversed_2", 6, IN_ROUNDS),
    ("pp_reversed_2", 5, ("STREAM", "A_DEATH")),
    ("dp_to_tp_2", 3, (*IN_ROUNDS, "A_FAILURE")),
]
LARGE = [
    ("dp_to_tp_3", 3, ()),
    ("pp_rotated_3", 3, ("IN_ORDER",)),
    ("pp_rotated_4", 2, ()),
    ("uneven_3", 3, ("BUFFERED",)),
    ("one_way_3", 6, ("STREAM",)),
    ("without_traffic_4", 3, ("STREAM",)),
    ("pp_reversed_3", 6, ("STREAM",)),
    ("pp_reversed_2", 5, (*IN_ROUNDS, "A_DEATH")),
    ("still_3", 2, (*IN_ROUNDS, "A_DEATH")),
    ("direct_2", 3, (*IN_ROUNDS, "A_FAILURE")),
    ("one_way_3", 6, ("STREAM", "A_DEATH")),
    ("pp_rotated_3", 2, ("A_DEATH",)),
]


def name(case):
    world, num_stages, variants = case
    return "-".join([world, str(num_stages), *variants])


def expect_no_fault(folder, case):
    world, num_stages, variants = case
    found = checked(folder, step_tables(world, num_stages), *variants)

    assert found.fault == ""
    assert found.states > 1000  # a world in which nothing happens proves nothing


# A wait for the wrong stage, or a slot that is reused too early, shows in one interleaving of
# thousands, and on a thousand GPUs first.
@pytest.mark.parametrize("case", SMALL, ids=name)
def test_no_interleaving_of_a_small_world_goes_wrong(case, tmp_path):
    expect_no_fault(tmp_path, case)


@pytest.mark.long
@pytest.mark.parametrize("case", LARGE, ids=name)
def test_no_interleaving_of_a_larger_world_goes_wrong(case, tmp_path):
    expect_no_fault(tmp_path, case)


def fault_of(folder, tables, *variants):
    return checked(folder, tables, *variants, optimize="-O0").fault  # is found at once


# A model that passes whatever the ranks do says nothing about them.
@pytest.mark.parametrize(
    ("case", "fault"),
    [
        (("direct_2", 4, ("BREAKS_RETIRES_LATE",)), "assertion violated"),
        (("direct_2", 4, ("BREAKS_IGNORES_SENDS",)), "assertion violated"),
        (("direct_2", 4, ("BREAKS_SENDS_FIRST",)), "invalid end state"),
        (("one_way_3", 6, ("STREAM", "BREAKS_FREES_EARLY")), "assertion violated"),
        (("one_way_3", 6, ("STREAM", "BREAKS_HEARS_NOTHING")), "assertion violated"),
        (("dp_to_tp_2", 3, (*IN_ROUNDS, "A_FAILURE", "BREAKS_FAILS_SILENTLY")), "invalid end"),
    ],
    ids=lambda each: each[2][-1] if isinstance(each, tuple) else "",
)
def test_a_fault_of_the_protocol_is_found(case, fault, tmp_path):
    world, num_stages, variants = case

    assert fault in fault_of(tmp_path, step_tables(world, num_stages), *variants)


# The tables are what ties the model to the schedule: two ends that differ must show.
@pytest.mark.parametrize(
    ("other_end", "fault"),
    [("0, 0, 8, 0, 1, 0, 16", "8==16"), ("0, 0, 8, 0, 1, 255, 0", "invalid end state")],
    ids=["other size", "never posted"],
)
def test_ends_of_a_message_that_differ_are_found(other_end, fault, tmp_path):
    end = "0, 0, 8, 0, 1, 0, 8"
    tables = step_tables("direct_2", 3)
    assert tables.count(end) == 1

    assert fault in fault_of(tmp_path, tables.replace(end, other_end))
