"""`runoff verify`: files held against their digests, and with `--run` packages against the golden pair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from runoff.cli.console import console, print_json
from runoff.cli.describe import print_reasons, reasons_here
from runoff.cli.replay import Choice, replay
from runoff.cli.source import ModelName, Revision, Sha256, fetching


def verify(
    model: ModelName,
    revision: Revision = None,
    sha256: Sha256 = None,
    run: Annotated[
        bool, typer.Option("--run", help="Let the packages answer the golden pair on this machine too.")
    ] = False,
    backend: Annotated[str | None, typer.Option(help="With --run: the packages of these backends only.")] = None,
    package: Annotated[str | None, typer.Option(help="With --run: this package only.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that a model is whole, and with --run that it is right here; exits with 1 when it is not."""
    from runoff.models.sources import SourceOptions, find_source, is_model_folder

    if not run and (backend or package):
        raise typer.BadParameter("--backend and --package go with --run")
    wanted = SourceOptions(revision=revision, sha256=sha256)
    if run:
        replay(model, wanted, Choice(tuple(backend.split(",")) if backend else (), package), as_json=as_json)
        return
    with fetching(wanted) as options:
        found = find_source(model, options)
    files = _check_folder(found.path) if is_model_folder(found.path) else [_bare(found.path)]
    reasons = reasons_here(found.path)
    wrong = sum(file["status"] != "ok" for file in files)
    if as_json:
        not_here = {name: {"reason": reason, "hint": hint} for name, (reason, hint) in reasons.items()}
        print_json({"path": str(found.path), "ok": wrong == 0, "files": files, "not_here": not_here})
    else:
        _print_table(files)
        summary = f"{wrong} of {len(files)} files are not what they should be" if wrong else f"{len(files)} files ok"
        console().print(summary, style="red" if wrong else "green", markup=False)
        print_reasons(reasons)
    if wrong:
        raise typer.Exit(1)


def _check_folder(root: Path) -> list[dict[str, Any]]:
    """The status of each file that the manifest names, with the packages that it belongs to."""
    from runoff.models.folder import check_file, read_folder

    manifest = read_folder(root).manifest
    owners: dict[str, list[str]] = {}
    for package in manifest.packages:
        for file in package.files:
            owners.setdefault(file.path, []).append(package.id)
    return [
        {
            "path": file.path,
            "packages": owners.get(file.path, []),
            "bytes": file.bytes,
            "status": check_file(root, file),
        }
        for file in dict.fromkeys(manifest.files())
    ]


def _bare(path: Path) -> dict[str, Any]:
    """A bare file or Hugging Face folder: no digest is known, and its format was checked when it was found."""
    from runoff.models.formats import detect_format

    size = path.stat().st_size if path.is_file() else None
    return {"path": str(path), "packages": [], "bytes": size, "status": "ok", "format": detect_format(path)}


def _print_table(files: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("file", "packages", "status")
    for file in files:
        status = str(file["status"])
        table.add_row(
            Text(str(file["path"])),
            Text(", ".join(file["packages"])),
            Text(status, style="green" if status == "ok" else "red"),
        )
    console().print(table)
