"""What travels over a switch: cases that are tried, and the page that says how they ended.

`python -m what_travels` (with `tests` and `python` on the path; `make what-travels`) tries all of
them and writes docs/reference/what-travels.md. tests/python/session/test_what_travels.py tries them
as well and holds the page against what it found.
"""

from what_travels.page import PAGE, page
from what_travels.trial import Case, Outcome, tried

__all__ = ["PAGE", "Case", "Outcome", "page", "tried"]
