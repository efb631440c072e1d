"""The page of the API says what the docstrings say, of every public name."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, is_dataclass

import pytest
import torch

import dynatrain

pytest.importorskip("docstring_parser", reason="needs requirements-titan.txt")

from api_page import GROUPS, PAGE, page
from api_page.page import told
from dynatrain.elastic.events import Event
from dynatrain.join import join


# A name that is exported and not on the page is a promise that nobody can look up.
def test_every_public_name_has_its_place():
    names = [name for group in GROUPS for name in group.names]

    assert sorted(names) == sorted(dynatrain.__all__)


# An elastic job begins with it, and it is imported from a module of its own.
def test_the_page_has_join_with_its_import_and_arguments():
    said = page()

    assert "from dynatrain.join import join" in said
    assert set(inspect.signature(join).parameters) <= set(re.findall(r"^- `(\w+)`:", said, re.M))


# A script that looks for a kind of event looks at either of the two.
def test_session_and_event_list_the_same_kinds_of_events():
    listed = [
        set(re.findall(r"``([a-z]+(?:-[a-z]+)?)``", inspect.getdoc(item))) - {"kind", "text"}
        for item in (Event, dynatrain.Session.on_event)
    ]

    assert listed[0] == listed[1] >= {"snapshot", "checkpoint", "went-back"}


def words(text):
    return set(re.findall(r"\w+", re.sub(r":\w+:`", "`", text)))


# A reader of docstrings drops what it does not understand, without a word.
@pytest.mark.parametrize("name", [name for name in dynatrain.__all__ if name != "__version__"])
def test_no_word_of_a_docstring_is_left_out(name):
    item = getattr(dynatrain, name)

    assert words(inspect.getdoc(item)) <= words(told(item))


# A field of what the library hands out is a promise as well; that of a span had no word.
@pytest.mark.parametrize(
    "name", [n for n in dynatrain.__all__ if is_dataclass(getattr(dynatrain, n))]
)
def test_every_field_of_a_public_record_has_a_line(name):
    item = getattr(dynatrain, name)
    told_of = set(re.findall(r"^- `(\w+)`:", told(item), re.MULTILINE))

    assert {field.name for field in fields(item)} <= told_of


# A line of a docstring that is not indented as it should be swallows the errors after it.
def test_every_error_has_a_line_of_its_own():
    assert not re.search(r"^- .*\. \w+Error: ", page(), re.MULTILINE)


# A page that nobody holds against the code says what was true when it was written.
@pytest.mark.skipif(not torch.__version__.startswith("2.15."), reason="another torch than the page")
def test_page_says_what_the_docstrings_say():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: make api"
