"""`runoff describe`: what a model is, without opening it."""

from __future__ import annotations

from typing import Annotated

import typer

from runoff.cli.console import console, print_json
from runoff.cli.source import ModelName, Revision, Sha256, fetching


def describe(
    model: ModelName,
    revision: Revision = None,
    sha256: Sha256 = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a model's task, signature and packages; of a model folder elsewhere no weights are fetched."""
    from runoff.backends.table import backends_for
    from runoff.models.description import describe_model
    from runoff.models.sources import SourceOptions, find_source

    wanted = SourceOptions(revision=revision, sha256=sha256, files=lambda manifest: manifest.files_of(()))
    with fetching(wanted) as options:
        found = find_source(model, options)
    description = describe_model(found.path, lambda format_id: [row.id for row in backends_for(format_id)])
    if as_json:
        print_json({"source": {"kind": found.kind, "origin": found.origin}, **description.to_dict()})
        return
    console().print(description)
