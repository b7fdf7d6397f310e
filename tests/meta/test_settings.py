"""Environment variables: those that are documented are those that are read."""

from __future__ import annotations

import ast
import re

from meta.repository import PACKAGE, ROOT, modules, pages, relative
from runoff import settings

_LINE = re.compile(r"^(RUNOFF_[A-Z_]+) +(path|bool|float|int|str) ", re.MULTILINE)
_NAME = re.compile(r"\bRUNOFF_[A-Z]+(?:_[A-Z]+)*\b")
LISTED = set(_NAME.findall("\n".join(line for line in (settings.__doc__ or "").splitlines() if _LINE.match(line))))


def test_listed_variables_are_read() -> None:
    tree = ast.parse((PACKAGE / "settings.py").read_text())
    read = {
        argument.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.startswith("_")
        for argument in node.args
        if isinstance(argument, ast.Constant) and str(argument.value).startswith("RUNOFF_")
    }
    assert read == LISTED


def test_listed_variables_are_documented() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert set(re.findall(r"^\| `(RUNOFF_\w+)` \|", page, re.MULTILINE)) == LISTED


def test_variables_named_anywhere_exist() -> None:
    texts = {relative(module.path): module.path.read_text() for module in modules()}
    texts |= {relative(page): page.read_text() for page in pages()}
    unknown = {path: set(_NAME.findall(text)) - LISTED for path, text in texts.items()}
    assert {path: names for path, names in unknown.items() if names} == {}
