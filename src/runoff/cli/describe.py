"""`runoff describe`: what a model is, without opening it."""

from __future__ import annotations

from typing import Annotated

import typer

from runoff.cli.console import console, print_json


def describe(
    model: Annotated[str, typer.Argument(help="A folder, file, URL, hub id or scheme:reference.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Digest that a file or URL must have.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a model's task, signature and packages."""
    from runoff.backends.table import backends_for
    from runoff.models.description import describe_model
    from runoff.models.sources import SourceOptions, find_source

    found = find_source(model, SourceOptions(revision=revision, sha256=sha256))
    description = describe_model(found.path, lambda format_id: [row.id for row in backends_for(format_id)])
    if as_json:
        print_json({"source": {"kind": found.kind, "origin": found.origin}, **description.to_dict()})
        return
    console().print(description)
