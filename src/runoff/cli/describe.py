"""`runoff describe`: what a model is, without opening it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
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
    reasons = reasons_here(found.path)
    packages = tuple(
        msgspec.structs.replace(package, not_here=reasons[package.id][0], hint=reasons[package.id][1])
        if package.id in reasons
        else package
        for package in description.packages
    )
    description = msgspec.structs.replace(description, packages=packages)
    if as_json:
        print_json({"source": {"kind": found.kind, "origin": found.origin}, **description.to_dict()})
        return
    console().print(description)
    print_reasons(reasons)


def reasons_here(root: Path) -> dict[str, tuple[str, str | None]]:
    """Why packages that are bound to an environment cannot run in this one: reason and hint by package id."""
    from runoff.models.folder import read_folder
    from runoff.models.sources import is_model_folder
    from runoff.race.usable import is_bound, unusable

    manifest = read_folder(root).manifest if is_model_folder(root) else None
    if manifest is None or not is_bound(manifest):
        return {}
    from runoff.environment.describe import describe_environment

    return unusable(manifest, describe_environment())


def print_reasons(reasons: Mapping[str, tuple[str, str | None]]) -> None:
    """A line for each package that cannot run here, and one for what would change that."""
    for package_id, (reason, hint) in reasons.items():
        console().print(f"{package_id} cannot run here: {reason}", style="yellow", markup=False)
        if hint:
            console().print(f"hint: {hint}", markup=False)
