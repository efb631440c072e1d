"""The page of every public name, made from the docstrings.

`python -m api_page` (with `tests` and `python` on the path; `make api`) writes
docs/reference/api.md. tests/python/package/test_api_page.py holds the page against the docstrings.
"""

from api_page.page import GROUPS, PAGE, page

__all__ = ["GROUPS", "PAGE", "page"]
