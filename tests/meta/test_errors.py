"""The exception tree: its drawing, its codes, and its page."""

from __future__ import annotations

import ast
import inspect
import re

import pytest

from meta.repository import ROOT, modules
from runoff import errors
from runoff.errors import RunoffError

CLASSES = [
    member
    for _, member in inspect.getmembers(errors, inspect.isclass)
    if issubclass(member, RunoffError) and member.__module__ == errors.__name__
]
ELSEWHERE = {"RemoteError"}
"""Carries an error of another process with the code that it had there, so it has none of its own."""
_BRANCH = re.compile(r"^ {4}(?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+)")


def _drawn_parents() -> dict[str, str | None]:
    """Class name to its parent's, as drawn in the docstring of the module."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = _BRANCH.match("    " + line if line.startswith("RunoffError") else line)
        if found:
            depth = len(found["branch"]) // 4
            path[depth:] = [found["name"]]
            parents[found["name"]] = path[depth - 1] if depth else None
    return parents


def test_drawn_tree_is_the_tree() -> None:
    real = {cls.__name__: cls.__base__.__name__ if cls is not RunoffError else None for cls in CLASSES}
    assert _drawn_parents() == real


def test_codes_are_unique_and_well_formed() -> None:
    codes = [cls.__dict__["code"] for cls in CLASSES]
    assert len(set(codes)) == len(codes)
    assert [code for code in codes if not re.fullmatch(r"RUNOFF-\d{3}", code)] == []


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_error_has_a_section_on_the_page(cls: type[RunoffError]) -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    section = re.search(rf"^## {cls.code} {cls.__name__}\n(?P<body>.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert section, f"docs/errors.md lacks the heading '## {cls.code} {cls.__name__}'"
    assert "**When**" in section["body"]
    assert "**What to do**" in section["body"]


def test_page_describes_no_error_that_is_gone() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    described = set(re.findall(r"^## (RUNOFF-\d{3} \w+)$", page, re.MULTILINE))
    assert described == {f"{cls.code} {cls.__name__}" for cls in CLASSES}


def test_errors_are_defined_in_one_module() -> None:
    names = {cls.__name__ for cls in CLASSES}
    strays = {
        node.name
        for module in modules()
        if module.name != errors.__name__
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id in names for base in node.bases)
    }
    assert strays - ELSEWHERE == set()
