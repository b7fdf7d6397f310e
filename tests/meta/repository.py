"""The repository as data for the tests beside it: its modules as syntax trees, its pages as text."""

from __future__ import annotations

import ast
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "runoff"


@dataclass(frozen=True)
class Module:
    """A module of the package: dotted name, path and syntax tree."""

    name: str
    path: Path
    tree: ast.Module

    def __str__(self) -> str:
        return self.name


def modules() -> list[Module]:
    """Every module under src/runoff, sorted by path."""
    return [Module(_dotted(path), path, ast.parse(path.read_text())) for path in sorted(PACKAGE.rglob("*.py"))]


def pages() -> list[Path]:
    """Every Markdown page of the repository, README first."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    return sorted(found, key=lambda path: (path != ROOT / "README.md", path))


def relative(path: Path) -> str:
    """The path as a person types it in the repository."""
    return path.relative_to(ROOT).as_posix()


def pyproject() -> dict[str, Any]:
    """The content of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
