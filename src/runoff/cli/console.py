"""How the verbs print: tables and text for people on standard output, JSON for programs, errors on standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from runoff.errors import RunoffError

if TYPE_CHECKING:
    from rich.console import Console


def console(*, stderr: bool = False) -> Console:
    """The console for people; wide enough for tables when the output is not a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 140, highlight=False, soft_wrap=False)


def print_json(value: Any) -> None:
    """Print data as indented JSON on standard output."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def print_error(error: RunoffError, *, as_json: bool) -> None:
    """Print an error: its message and hint for people, or {"error": {code, message, hint}} as JSON."""
    if as_json:
        print_json({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
        return
    out = console(stderr=True)
    out.print(f"error: {error.message}", style="red", markup=False)
    if error.hint:
        out.print(f"hint: {error.hint}", markup=False)
