"""`runoff models` and `runoff registry`: the models that are here, and adding one to a registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runoff.cli.console import console, print_json
from runoff.cli.source import ModelName, fetching
from runoff.errors import InputError

if TYPE_CHECKING:
    from runoff.models.listing import ListedModel

app = typer.Typer(help="Keep models by name and version in a plain folder.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Registry = Annotated[Path | None, typer.Option(help="The folder of the registry; RUNOFF_REGISTRY unless given.")]


def models(registry: Registry = None, as_json: AsJson = False) -> None:
    """List the models in the registry, below RUNOFF_MODELS and in the cache."""
    from runoff.models.listing import list_models

    found = list_models(registry)
    if as_json:
        print_json({"models": found})
        return
    _print_models(found)


@app.command("add")
def add(
    model: ModelName,
    name: Annotated[str, typer.Argument(help="What it is called: lower-case letters, digits, '.', '_', '-'.")],
    version: Annotated[str, typer.Option(help="Its version, such as 1.2; must be new.")],
    alias: Annotated[list[str] | None, typer.Option(help="Another name for this version; may be repeated.")] = None,
    registry: Registry = None,
    as_json: AsJson = False,
) -> None:
    """Copy a model into a registry, whole or not at all."""
    from runoff import settings
    from runoff.export.find import find_folder
    from runoff.models.registry import add_version

    root = registry or settings.registry_folder()
    if root is None:
        raise InputError("nothing says which registry", hint="name it with --registry or RUNOFF_REGISTRY")
    with fetching() as options:
        folder = find_folder(model, options)
    entry = add_version(root, folder, name, version, alias or ())
    if as_json:
        print_json(entry)
        return
    also = f", also {', '.join(entry.aliases)}" if entry.aliases else ""
    console().print(f"added {entry.name}@{entry.version}{also} to {root}", markup=False)


def _print_models(found: list[ListedModel]) -> None:
    from rich.table import Table
    from rich.text import Text

    from runoff.models.description import human_bytes

    table = Table("name", "version", "aliases", "task", "packages", "place")
    table.add_column("size", justify="right")
    for model in found:
        version = f"{model.version}{' (latest)' if model.is_latest else ''}" if model.version else ""
        what = Text(model.problem, style="red") if model.problem else Text(", ".join(model.packages))
        table.add_row(
            Text(model.name), version, Text(", ".join(model.aliases)), model.task or "", what, model.place,
            human_bytes(model.bytes),
        )  # fmt: skip
    console().print(table)
    console().print(f"{len(found)} model{'' if len(found) == 1 else 's'}", markup=False)
