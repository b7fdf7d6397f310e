"""`runoff targets`: every runtime of the field, how Runoff reaches it, and whether that was ever run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from runoff.cli.console import console, print_json


def targets(
    providers: Annotated[
        bool, typer.Option("--providers", help="List ONNX Runtime's execution providers too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print data instead of tables.")] = False,
) -> None:
    """List the runtimes of the field: how each is reached from here, and what was ever run of it."""
    from runoff.environment.execution_providers import Question
    from runoff.export.targets import list_targets

    with Question() as question:
        states = list_targets(lambda: question.answer().providers)
    rows = [_row(state) for state in states]
    if as_json:
        print_json({"targets": rows, "providers": _providers()})
        return
    _print(
        "how Runoff reaches the runtimes of the field", rows, ("title", "vendor", "way", "through", "proven", "here")
    )
    if providers:
        _print("execution providers of ONNX Runtime", _providers(), ("title", "vendor", "devices", "needs", "build"))


def _row(state: Any) -> dict[str, Any]:
    import msgspec

    from runoff.export.targets import PROOFS

    row: dict[str, Any] = msgspec.to_builtins(state.target)
    return {**row, "proven": PROOFS[state.target.proven], "here": state.here}


def _providers() -> list[dict[str, Any]]:
    import msgspec

    from runoff.backends.execution_providers import EXECUTION_PROVIDERS

    return [msgspec.to_builtins(row) for row in EXECUTION_PROVIDERS]


def _print(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        cells = (row[column] for column in columns)
        table.add_row(*(Text(", ".join(cell) if isinstance(cell, list) else str(cell)) for cell in cells))
    console().print(table)
