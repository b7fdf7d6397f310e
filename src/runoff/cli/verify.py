"""`runoff verify`: every file of a model held against its digest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from runoff.cli.console import console, print_json
from runoff.cli.describe import print_reasons, reasons_here


def verify(
    model: Annotated[str, typer.Argument(help="A folder, file, URL, hub id or scheme:reference.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Digest that a file or URL must have.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that a model is whole; exits with 1 when a file is missing, damaged or not its own."""
    from runoff.models.sources import SourceOptions, find_source, is_model_folder

    found = find_source(model, SourceOptions(revision=revision, sha256=sha256))
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
