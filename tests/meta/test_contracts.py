"""The contracts of .importlinter, held against the tables and against each other."""

from __future__ import annotations

import ast
import configparser

import pytest

import runoff
from meta.repository import ROOT, Module, modules
from runoff.backends.built_in import BUILT_IN
from runoff.export.conversions import STEPS
from runoff.export.forms import FORMS

_FILE = configparser.ConfigParser()
_FILE.read(ROOT / ".importlinter")


def _lines(contract: str, key: str) -> list[str]:
    return _FILE[f"importlinter:contract:{contract}"][key].strip().splitlines()


def test_files_that_may_import_a_runtime_library_are_loaded_by_name_only() -> None:
    importers = {line.split(" -> ")[0] for line in _lines("runtime-libraries", "ignore_imports")}
    closed = set(_lines("closed-files", "forbidden_modules"))
    assert importers <= closed
    # What runs in a process of another language imports none, and is loaded by name all the same.
    assert closed - importers <= {entry.target.partition(":")[0] for entry in (*BUILT_IN, *STEPS)}


def test_backends_and_steps_are_among_the_closed_files() -> None:
    named = {entry.target.partition(":")[0] for entry in (*BUILT_IN, *STEPS, *FORMS)}
    assert named <= set(_lines("closed-files", "forbidden_modules"))


def test_backends_apart_lists_every_backend() -> None:
    assert set(_lines("backends-apart", "modules")) == {row.target.partition(":")[0] for row in BUILT_IN}


@pytest.mark.parametrize("module", modules(), ids=str)
def test_exported_names_are_not_taken_from_the_root(module: Module) -> None:
    taken = {
        alias.name
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.module == "runoff"
        for alias in node.names
    }
    assert taken & (set(runoff.__all__) - {"__version__"}) == set(), "an import upwards that the layers cannot see"
