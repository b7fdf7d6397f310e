"""docs/structure.md is what the docstrings say."""

from __future__ import annotations

from meta.structure import PAGE, render


def test_structure_page_is_up_to_date() -> None:
    assert PAGE.read_text() == render(), "run `make docs`"
