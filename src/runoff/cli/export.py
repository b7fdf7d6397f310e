"""`runoff export`: make a model in other formats."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runoff.cli.console import console, print_json
from runoff.cli.source import fetching
from runoff.errors import RunoffError, UnknownName, unknown_name

if TYPE_CHECKING:
    from runoff.export.run import ExportOptions
    from runoff.models.folder import ModelFolder
    from runoff.models.manifest import Batch
    from runoff.types import Precision

_KIB = 1024


def export(
    model: Annotated[str, typer.Argument(help="A model folder, file, Hugging Face folder, hub id or URL.")],
    to: Annotated[str, typer.Option(help="Formats to make, such as onnx,openvino,litert.")],
    precision: Annotated[str, typer.Option(help="What the packages compute in: fp32, bf16, fp16 or int8.")] = "fp32",
    batch: Annotated[
        str | None, typer.Option(help="dynamic, or the one batch size of them; default: as the reference, else 1.")
    ] = None,
    opset: Annotated[int | None, typer.Option(min=1, help="ONNX operator set.")] = None,
    out: Annotated[Path | None, typer.Option(help="Copy the model to a new folder there and export in it.")] = None,
    force: Annotated[bool, typer.Option(help="Make them again although they are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make a model in other formats; each is opened once before it is added to the model's folder.

    One that cannot be made is a reason in the table and does not stop the others; the exit code is then 1.
    """
    from runoff.export.find import find_folder, writable_folder
    from runoff.export.format_names import no_format, quantize_hint
    from runoff.export.run import ExportOptions
    from runoff.export.step import DEFAULT_OPSET

    words = _words(to)
    wanted = _precision(precision)
    log = console(stderr=True)
    options = ExportOptions(
        batch=_batch(batch),
        opset=opset or DEFAULT_OPSET,
        force=force,
        on_step=None if as_json else lambda line: log.print(line, style="dim", markup=False),
    )
    with fetching() as source:
        found = find_folder(model, source)
    folder = _copy(found, out) if out is not None else writable_folder(found)
    rows: list[dict[str, Any]] = []
    for word, format_id in words.items():
        try:
            if format_id is None:
                raise no_format(word)
            folder, row = _export_one(folder, format_id, wanted, options)
            rows.append(row)
        except RunoffError as error:
            hint = quantize_hint(format_id, wanted, model) or error.hint
            rows.append({"to": format_id or word, "code": error.code, "message": error.message, "hint": hint})
    failed = [row for row in rows if "message" in row]
    if as_json:
        made = [row for row in rows if row not in failed]
        print_json({"folder": str(folder.root), "made": made, "failed": failed})
    else:
        _print(folder.root, rows)
    if failed:
        raise typer.Exit(1)


def _copy(folder: ModelFolder, out: Path) -> ModelFolder:
    from runoff.models.folder import copy_folder

    return copy_folder(folder, out)


def _export_one(
    folder: ModelFolder, format_id: str, precision: Precision, options: ExportOptions
) -> tuple[ModelFolder, dict[str, Any]]:
    """Export to one format; answers the folder and what there is to say about the package."""
    from runoff.export.run import batch_of, export_package, find_package

    before = {package.id: package.entry for package in folder.packages}
    started_s = time.perf_counter()
    folder = export_package(folder, format_id, precision, options)
    seconds = time.perf_counter() - started_s
    package = find_package(folder, format_id, precision, batch_of(folder, format_id, options.batch))
    if package is None:
        raise UnknownName(f"no package of format {format_id!r} was made")
    return folder, {
        "to": format_id,
        "package": package.id,
        "path": str(package.main_file),
        "bytes": sum(file.bytes for file in package.entry.files),
        "seconds": round(seconds, 3),
        "new": before.get(package.id) != package.entry,
    }


def _words(text: str) -> dict[str, str | None]:
    """Each format that was asked for, by the word for it; None where the field has it and this version does not.

    Raises:
        UnknownName: a word means nothing.
    """
    from runoff.export.format_names import find_format, known_formats

    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise unknown_name("format", text, known_formats())
    found: dict[str, str | None] = {}
    for word in words:
        name = find_format(word)
        if name is None or name not in found.values():
            found[word] = name
    return found


def _precision(text: str) -> Precision:
    from runoff.types import Precision

    known = [precision.value for precision in Precision]
    if text not in known:
        raise unknown_name("precision", text, known)
    return Precision(text)


def _batch(text: str | None) -> Batch | None:
    if text is None:
        return None
    if text == "dynamic":
        return "dynamic"
    if not text.isdigit() or int(text) < 1:
        raise UnknownName(f"--batch {text!r} is neither 'dynamic' nor a whole number from 1", hint="--batch 8")
    return int(text)


def _print(root: Path, rows: list[dict[str, Any]]) -> None:
    """One table in the order that was asked for, with the reason of what was not made; then the hints."""
    from rich.table import Table
    from rich.text import Text

    table = Table("format", "package", "size", "time", "", title=str(root), title_justify="left")
    for row in rows:
        if "message" in row:
            table.add_row(row["to"], "", "", "", Text(f"failed: {row['message']}", "red"))
            continue
        size = f"{row['bytes'] / _KIB:.1f} KiB" if row["bytes"] < _KIB**2 else f"{row['bytes'] / _KIB**2:.1f} MiB"
        outcome = "made" if row["new"] else "was there already"
        table.add_row(row["to"], Text(row["package"]), size, f"{row['seconds']:.1f} s", outcome)
    console().print(table)
    for row in rows:
        if row.get("hint"):
            console(stderr=True).print(f"hint for {row['to']}: {row['hint']}", markup=False)
