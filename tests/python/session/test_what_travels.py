"""The page of what travels says what happens: every case is tried and held against it."""

from __future__ import annotations

import pytest
import torch

from what_travels import PAGE, page, tried
from what_travels.page import CASES
from what_travels.trial import BENT

pytestmark = pytest.mark.usefixtures("alone")


# Silently wrong is the worst that a switch can be: each case either arrives or is refused.
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_bent(name):
    outcome = tried(CASES[name])

    assert outcome.word != BENT, outcome.why


#: The page was written with this torch; others word and count a little differently.
OF_PAGE = "2.15."


# A page that nobody holds against the code says what was true when it was written.
@pytest.mark.skipif(not torch.__version__.startswith(OF_PAGE), reason="another torch than the page")
def test_page_says_what_was_found():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: make what-travels"
