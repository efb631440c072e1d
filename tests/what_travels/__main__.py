"""Writes the page anew."""

from what_travels import PAGE, page

PAGE.write_text(page(), encoding="utf-8")
