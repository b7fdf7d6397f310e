"""The names that `runoff` exports."""

from __future__ import annotations

import ast

import pytest

import runoff
from meta.repository import PACKAGE


@pytest.mark.parametrize("name", runoff.__all__)
def test_public_name_resolves(name: str) -> None:
    assert getattr(runoff, name) is not None


def test_public_names_are_listed_for_people_and_type_checkers_alike() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    typed = {alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(dir(runoff)) == set(runoff.__all__)
    assert typed - {"annotations", None} | {"__version__"} == set(runoff.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = runoff.nonsense
