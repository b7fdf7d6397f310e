"""The tables of backends and of export steps, held against the files and extras that it names; nothing is imported."""

from __future__ import annotations

import ast
import re
from types import UnionType

import pytest

from meta.repository import PACKAGE, modules, pyproject
from runoff.backends.built_in import BUILT_IN
from runoff.backends.row import BackendRow
from runoff.environment.libraries import LIBRARIES, TOOLS, Library
from runoff.export.conversions import STEPS, Step

_TARGET = re.compile(r"runoff(\.\w+)+:\w+")


def _defines(target: str, kind: type[ast.ClassDef] | UnionType) -> bool:
    """Whether `module:name` is a class or a function of the package, seen without importing it."""
    module, _, name = target.partition(":")
    path = PACKAGE.parent / (module.replace(".", "/") + ".py")
    return path.is_file() and name in {node.name for node in ast.parse(path.read_text()).body if isinstance(node, kind)}


@pytest.mark.parametrize("row", BUILT_IN, ids=lambda row: row.id)
def test_row_names_a_class_that_exists(row: BackendRow) -> None:
    assert _defines(row.target, ast.ClassDef)


def test_code_that_is_named_exists() -> None:
    named = {
        node.value
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _TARGET.fullmatch(node.value)
    }
    assert named >= {step.target for step in STEPS}
    assert {target for target in named if not _defines(target, ast.FunctionDef | ast.ClassDef)} == set()


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_step_names_an_extra_of_the_project(step: Step) -> None:
    assert step.extra in pyproject()["project"]["optional-dependencies"]


_BY_PIP = [row for row in BUILT_IN if row.library is not None]
"""Rows whose runtime is a Python library; the others are JavaScript."""


def test_only_javascript_runtimes_have_no_library() -> None:
    assert {row.id for row in BUILT_IN} - {row.id for row in _BY_PIP} == {"ort-web", "tfjs"}


@pytest.mark.parametrize("row", _BY_PIP, ids=lambda row: row.id)
def test_row_names_an_extra_of_the_project(row: BackendRow) -> None:
    assert row.extra in pyproject()["project"]["optional-dependencies"]


@pytest.mark.parametrize("row", _BY_PIP, ids=lambda row: row.id)
def test_row_names_a_library_that_is_probed(row: BackendRow) -> None:
    assert row.library in {library.id for library in LIBRARIES}


@pytest.mark.parametrize("library", (*LIBRARIES, *TOOLS), ids=lambda library: library.id)
def test_library_names_an_extra_of_the_project(library: Library) -> None:
    assert {library.extra, library.cpu_extra or library.extra} <= set(pyproject()["project"]["optional-dependencies"])


@pytest.mark.parametrize("row", BUILT_IN, ids=lambda row: row.id)
def test_variants_use_options_of_the_row(row: BackendRow) -> None:
    assert row.variants[0].name == ""
    assert {name for variant in row.variants for name in variant.options} <= set(row.options)


def test_ids_are_unique() -> None:
    assert len({row.id for row in BUILT_IN}) == len(BUILT_IN)
