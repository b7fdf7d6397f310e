"""The shape of the code: lengths, names, docstrings, and who may import by name or from outside."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from meta.repository import PACKAGE, ROOT, Module, modules, pyproject, relative
from runoff.environment.libraries import LIBRARIES, TOOLS

MAX_FILE_LINES = 399
MAX_FUNCTION_LINES = 59
MAX_PARAMETERS = 6
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "managers"}
MANY_PARAMETERS = {"runoff.auto.from_pretrained", "runoff.race.wish.make_wish"}
"""The front door, and the function that reads its words."""
IMPORT_BY_NAME = {"src/runoff/__init__.py", "src/runoff/backends/table.py"}

MODULES = modules()
Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(module: Module) -> list[Function]:
    return [node for node in ast.walk(module.tree) if isinstance(node, Function)]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_file_is_short(module: Module) -> None:
    assert len(module.path.read_text().splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_functions_are_short(module: Module) -> None:
    lengths = {function.name: (function.end_lineno or 0) - function.lineno + 1 for function in _functions(module)}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_functions_take_few_parameters(module: Module) -> None:
    counts = {}
    for function in _functions(module):
        given = function.args
        names = [part.arg for part in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
        counts[f"{module.name}.{function.name}"] = len([name for name in names if name not in ("self", "cls")])
    too_many = {name for name, count in counts.items() if count > MAX_PARAMETERS}
    # A verb of the command line has one parameter for each of its flags.
    assert module.name.startswith("runoff.cli.") or too_many <= MANY_PARAMETERS


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_module_says_what_it_is(module: Module) -> None:
    docstring = ast.get_docstring(module.tree)
    assert docstring, "a module starts with a docstring: what it is, and what it does not know"
    assert docstring.splitlines()[0].endswith((".", ":")), "the first line stands alone in docs/structure.md"


def test_names_of_files_say_something() -> None:
    folders = (ROOT / "src", ROOT / "tests", ROOT / "benchmarks", ROOT / "examples")
    stems = {path.stem for folder in folders for path in folder.rglob("*.py")}
    parents = {part for folder in folders for path in folder.rglob("*.py") for part in path.relative_to(ROOT).parts}
    assert (stems | parents) & VAGUE_NAMES == set()


def test_code_is_imported_by_name_in_two_files_only() -> None:
    users = {
        relative(module.path)
        for module in MODULES
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Attribute) and node.attr == "import_module")
        or (isinstance(node, ast.Name) and node.id in ("import_module", "__import__"))
        or (isinstance(node, ast.alias) and node.name == "import_module")
    }
    assert users == IMPORT_BY_NAME


def _outside_imports(tree: ast.AST) -> set[str]:
    """Top-level names of the third-party packages that a tree imports."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"runoff", "__future__"}


@cache
def _installed() -> Mapping[str, list[str]]:
    """Which distributions bring each package that is installed; looking takes a second."""
    return packages_distributions()


def _distributions(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


@pytest.mark.parametrize("module", [module for module in MODULES if _outside_imports(module.tree)], ids=str)
def test_imported_packages_are_declared(module: Module) -> None:
    project = pyproject()["project"]
    declared = _distributions(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        declared |= _distributions(extra)
    # Where an optional library is not installed, the table of libraries tells what brings it.
    known = {row.import_name.partition(".")[0]: row.distributions for row in (*LIBRARIES, *TOOLS)}
    owners = {**known, **_installed()}
    undeclared = {
        name
        for name in _outside_imports(module.tree)
        if not {canonicalize_name(owner) for owner in owners.get(name, [name])} & declared
    }
    assert undeclared == set(), "a package that another one happens to bring may be gone tomorrow"


def test_no_module_is_left_out_of_the_package() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [relative(folder) for folder in folders if not Path(folder, "__init__.py").exists()] == []
