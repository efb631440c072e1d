"""Whatever object comes in as an argument, an error of the family is all that leaves a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import strategies as st

import dynatrain
import training_jobs as jobs
from dynatrain import DeviceError, Layout, LayoutError, arguments
from hostile_objects import objects

#: Their words alone: tests that look at all objects of the process cannot look at these.
HOSTILE = sorted(objects())
ARGUMENTS = list(arguments.Given.__dataclass_fields__)
SIZES = ["dp", "dp_shard", "dp_replicate", "cp", "tp", "pp", "ep", "etp", "vpp", "stages", "order"]
LAYOUT_CALLS: dict[str, Callable[[Any], object]] = {
    "size": lambda value: Layout(dp=2).size(value),
    "coordinate rank": lambda value: Layout(dp=2).coordinate(value, "dp_shard"),
    "coordinate axis": lambda value: Layout(dp=2).coordinate(0, value),
    "group rank": lambda value: Layout(dp=2).group(value, "dp_shard"),
    "group axis": lambda value: Layout(dp=2).group(0, value),
    "layers rank": lambda value: Layout(pp=2).layers(value, 4),
    "layers": lambda value: Layout(pp=2).layers(0, value),
    "parse": Layout.parse,
}
SESSION_CALLS: dict[str, Callable[[Any, Any], object]] = {
    "steps": lambda session, value: session.steps(value),
    "request": lambda session, value: session.request(value).cancel(),
    "on_switch": lambda session, value: session.on_switch(value),
    "switch": lambda session, value: session.switch(value),
    "switch names": lambda session, value: session.switch("dp=1", names=value),
    "prepare": lambda session, value: session.prepare(value),
    "prepare names": lambda session, value: session.prepare("dp=1", names=value),
    "check": lambda session, value: session.check(value),
    "check names": lambda session, value: session.check("dp=1", names=value),
    "switch_parallelism": lambda session, value: dynatrain.switch_parallelism(value),
}

plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.complex_numbers(),
    st.sampled_from(["dp=1", "tp", "sums", "auto", "cpu", *SIZES]),
)
anything = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    max_leaves=4,
)


def given_to_init(**changed):
    defaults = {
        "initialize": None,
        "keep": None,
        "device": None,
        "timeout_s": 60.0,
        "staging_budget_bytes": 1 << 20,
        "memory_budget_bytes": None,
        "num_threads": None,
        "transport": "auto",
        "verify": ("sums",),
        "seed": 0,
        "groups": None,
    }
    required = {"build": jobs.build, "layout": "dp=1"}
    return arguments.Given(**{**required, **defaults, **changed})


def only_the_family(call):
    """Fails when a call raises what is not of the family, or does not say enough."""
    try:
        call()
    except (LayoutError, DeviceError) as error:
        num_lines = len(str(error).splitlines())
    else:
        return
    assert num_lines >= 3


@for_all(name=st.sampled_from(ARGUMENTS), value=anything)
def test_init_takes_or_refuses_any_object(name, value):
    only_the_family(lambda: arguments.check(given_to_init(**{name: value})).shared())


@for_all(name=st.sampled_from(SIZES), value=anything)
def test_layout_takes_or_refuses_any_object(name, value):
    only_the_family(lambda: Layout(**{name: value}))


@for_all(name=st.sampled_from(sorted(LAYOUT_CALLS)), value=anything)
def test_questions_to_a_layout_take_or_refuse_any_object(name, value):
    only_the_family(lambda: LAYOUT_CALLS[name](value))


def test_calls_of_a_session_take_or_refuse_any_object(start):
    session = start()

    @for_all(name=st.sampled_from(sorted(SESSION_CALLS)), value=anything)
    def call(name, value):
        if name == "on_switch" and callable(value):
            return  # its call is the script's own affair
        only_the_family(lambda: SESSION_CALLS[name](session, value))

    call()
    session._callbacks.clear()
    assert session.switch("dp=1").target == "dp=1"


# They cannot be drawn by chance: hypothesis looks at what it draws.
@pytest.mark.parametrize("words", HOSTILE)
def test_each_hostile_object_is_taken_or_refused_everywhere(start, words):
    session, value = start(), objects()[words]
    for name in ARGUMENTS:
        only_the_family(lambda name=name: arguments.check(given_to_init(**{name: value})).shared())
    for name in SIZES:
        only_the_family(lambda name=name: Layout(**{name: value}))
    for call in LAYOUT_CALLS.values():
        only_the_family(lambda call=call: call(value))
    for name, call in SESSION_CALLS.items():
        if name != "on_switch" or not callable(value):
            only_the_family(lambda call=call: call(session, value))


# Frameworks' configurations hold such numbers and names.
def test_numbers_and_names_of_other_classes_are_taken():
    assert Layout(dp=np.int64(2), tp=np.uint8(2), pp=torch.tensor(2)) == Layout(dp=2, tp=2, pp=2)
    assert Layout(pp=2, stages=np.array([3, 5])) == Layout(pp=2, stages=[3, 5])
    checked = arguments.check(
        given_to_init(
            timeout_s=np.float64(2.5),
            seed=np.int32(-3),
            num_threads=torch.tensor(2),
            layout=np.str_("dp=1"),
            verify=np.array(["sums"]).tolist(),
        )
    )
    assert checked.options.timeout.total_seconds() == 2.5
    assert type(checked.options.seed) is int
    assert checked.options.num_threads == 2


@pytest.mark.parametrize("total", [torch.tensor(2.5), np.float64(2), np.array([1, 2])], ids=str)
def test_number_of_steps_that_is_none_is_refused(start, total):
    with pytest.raises(LayoutError, match="whole number"):
        start().steps(total)


def test_layout_that_was_never_made_is_refused(start):
    with pytest.raises(LayoutError, match=r"dynatrain\.Layout"):
        start().switch(Layout.__new__(Layout))
