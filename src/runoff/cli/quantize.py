"""`runoff quantize`: a model at a lower precision, with what that costs and gains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runoff.cli.console import console, print_json
from runoff.cli.source import fetching
from runoff.errors import InputError, UnknownName

if TYPE_CHECKING:
    from runoff.export.calibration import Rows
    from runoff.models.folder import ModelFolder
    from runoff.race.measure import Quantized
    from runoff.race.quantize import QuantizeResult

_MIB = 2**20
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def quantize(
    model: Annotated[str, typer.Argument(help="A model folder, file, Hugging Face folder, hub id or URL.")],
    precision: Annotated[str, typer.Option(help="fp16, bf16, int8-dynamic, int8-static or int4.")],
    backend: Annotated[str | None, typer.Option(help="Backends to make it for, such as onnx,openvino.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="An .npz of inputs by name, or a folder of such files or of images.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="An .npy of one integer label a row of --data.")] = None,
    calibration: Annotated[str, typer.Option(help="How ranges are read: minmax, entropy or percentile.")] = "minmax",
    symmetric: Annotated[bool, typer.Option("--symmetric", help="Zero points of 0, as TensorRT takes them.")] = False,
    max_metric_drop: Annotated[
        str | None, typer.Option(help="How much of the task metric may be lost, such as 0.5pp.")
    ] = None,
    max_error: Annotated[float | None, typer.Option(help="Largest relative error that is admitted.")] = None,
    search_s: Annotated[float, typer.Option(min=1, help="Seconds for the search of layers to keep.")] = 300,
    out: Annotated[
        Path | None, typer.Option(help="Copy the model to a new folder there and quantise it there.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Make them again although they are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make a model at a lower precision; where it is outside its contract, keep its most sensitive layers."""
    from runoff.cli.race import read_fraction
    from runoff.export.find import find_folder, writable_folder
    from runoff.models.folder import copy_folder
    from runoff.race.fidelity import Contract
    from runoff.race.quantize import QuantizeWish, quantize_model

    log = console(stderr=True)
    with fetching() as source:
        folder = find_folder(model, source)
    wish = QuantizeWish(
        precision=precision,
        backends=tuple(part.strip() for part in backend.split(",") if part.strip()) if backend else None,
        data=_rows(folder, data, labels),
        calibration=calibration,
        symmetric=symmetric,
        contract=Contract(None, max_error, read_fraction(max_metric_drop)),
        force=force,
        search_s=search_s,
        on_step=None if as_json else lambda line: log.print(line, style="dim", markup=False),
    )
    result = quantize_model(copy_folder(folder, out) if out is not None else writable_folder(folder), wish)
    if as_json:
        print_json(_as_data(result))
    else:
        _print(result)
    if result.failed or any(made.outside for made in result.made):
        raise typer.Exit(1)


def _rows(folder: ModelFolder, data: Path | None, labels: Path | None) -> Rows | None:
    """The user's rows: arrays as they are, images through the task's pre-processing."""
    from runoff.export.calibration import Rows, read_data

    if data is None:
        if labels is not None:
            raise UnknownName("--labels needs the --data that they belong to")
        return None
    images = sorted(path for path in data.iterdir() if path.suffix.lower() in _IMAGES) if data.is_dir() else []
    if not images:
        return read_data(data, labels)
    if labels is not None:
        raise InputError("labels go with arrays, not with a folder of images", hint="hand in an .npz of inputs")
    from runoff.tasks.base import task_for

    arrays = task_for(folder.manifest, folder).prepare(images)
    arrays = {spec.name: arrays[spec.name] for spec in folder.manifest.signature.inputs if spec.name in arrays}
    return Rows(arrays, f"{len(images)} images of {data.name}")


def _as_data(result: QuantizeResult) -> dict[str, Any]:
    failed = [
        {"package": name, "code": error.code, "message": error.message, "hint": error.hint}
        for name, error in result.failed.items()
    ]
    return {"folder": str(result.folder.root), "made": result.made, "failed": failed}


def _print(result: QuantizeResult) -> None:
    from rich.table import Table
    from rich.text import Text

    if result.made:
        table = Table(title=str(result.folder.root), title_justify="left")
        for column in ("candidate", "MiB", "p50 ms", "output: max rel error / centred cosine", "metric", "kept layers"):
            table.add_column(column, overflow="fold")
        for made in result.made:
            table.add_row(*(Text(cell) for cell in _cells(made)))
        console().print(table)
        for made in result.made:
            _print_notes(made)
    for name, error in result.failed.items():
        console(stderr=True).print(f"{name} failed: {error.message}", style="red", markup=False)
        if error.hint:
            console(stderr=True).print(f"hint: {error.hint}", markup=False)


def _cells(made: Quantized) -> tuple[str, ...]:
    size = f"{made.source_bytes / _MIB:.2f} -> {made.size_bytes / _MIB:.2f}"
    speed = f"{made.source_p50_ms:.3g} -> {made.p50_ms:.3g} ({made.source_p50_ms / made.p50_ms:.2f}x)"
    outputs = "\n".join(f"{name}: {f.max_rel:.2g} / {f.centred_cosine:.5f}" for name, f in made.outputs.items())
    metric = "\n".join(
        f"{name} {made.source_metric[name] * 100:.2f} -> {value * 100:.2f} %" for name, value in made.metric.items()
    )
    kept = f"{len(made.kept)}: {', '.join(made.kept)}" if made.kept else "none"
    return made.candidate_id, size, speed, outputs, metric or "no labels", kept


def _print_notes(made: Quantized) -> None:
    out = console()
    lines = [f"judged on {made.num_judged} rows: {made.judged}"]
    if made.calibration:
        lines.append(f"calibrated by {made.calibration}")
    if made.log is not None and made.log.after is not None:
        before, after = (_figures(verdict.figures) for verdict in (made.log.before, made.log.after))
        lines.append(
            f"{len(made.log.kept)} of {made.log.num_layers} layers stay in fp32: {before} before, {after} after"
        )
    if made.outside:
        lines.append(f"outside its contract: {made.outside}; --force makes it again")
    for line in lines:
        out.print(f"{made.package_id}: {line}", markup=False)


def _figures(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items()) or "NaN"
