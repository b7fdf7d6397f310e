"""`runoff race`: make candidates, check fidelity, time, decide, record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runoff.cli.console import console, print_json
from runoff.errors import RaceError, UnknownName, unknown_name

if TYPE_CHECKING:
    from runoff.race.options import RaceOptions
    from runoff.types import Precision

_MIB = 2**20


def race(
    model: Annotated[str, typer.Argument(help="A model folder, file, Hugging Face folder, hub id or URL.")],
    objective: Annotated[
        str, typer.Option(help="What the winner is best at: latency, throughput, cold-start, memory or size.")
    ] = "latency",
    batch: Annotated[str | None, typer.Option(help="Batch sizes to time; default: 1, for throughput 1,8.")] = None,
    threads: Annotated[
        str | None, typer.Option(help="Thread counts to enter each candidate with; default: the usable cores, and 1.")
    ] = None,
    sessions: Annotated[str | None, typer.Option(help="For throughput: sessions in one process, as 1,2.")] = None,
    contract: Annotated[str | None, typer.Option(help="One level for all: exact, close or bounded.")] = None,
    max_error: Annotated[float | None, typer.Option(help="Largest relative error that is admitted.")] = None,
    max_metric_drop: Annotated[
        str | None, typer.Option(help="How much of the task metric may be lost, such as 0.5pp.")
    ] = None,
    max_memory: Annotated[str | None, typer.Option(help="Largest peak memory, such as 500MB or 2GB.")] = None,
    backend: Annotated[str | None, typer.Option(help="Backends that compete, such as torch,onnx.")] = None,
    candidates: Annotated[
        str | None, typer.Option(help="Candidates that compete, such as torch-fp32,torch-fp32+compile.")
    ] = None,
    precisions: Annotated[
        str | None,
        typer.Option(help="Precisions that compete and are made first, such as fp32,bf16,int8."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the candidates run, such as cpu or cuda:0.")] = "cpu",
    data: Annotated[Path | None, typer.Option(help="An .npz of inputs by name to compare and time on.")] = None,
    labels: Annotated[Path | None, typer.Option(help="An .npy of one integer label a row of --data.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each candidate.")] = 7,
    out: Annotated[Path | None, typer.Option(help="Make the model folder here and race it there.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the HTML report to this file.")] = None,
    force: Annotated[bool, typer.Option(help="Measure again even where a record holds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Race every runtime that can run the model and record the fastest one that stays correct."""
    from runoff.race.fidelity import LEVELS, Contract
    from runoff.race.options import RaceOptions
    from runoff.race.wish import parse_device

    if contract is not None and contract not in LEVELS:
        raise unknown_name("contract", contract, list(LEVELS))
    options = RaceOptions(
        objective=objective,  # type: ignore[arg-type]  # make_options checks it
        contract=Contract(contract, max_error, read_fraction(max_metric_drop)),
        max_memory_bytes=_bytes(max_memory),
        batches=_numbers(batch or ("1,8" if objective == "throughput" else "1"), "--batch"),
        num_threads=_numbers(threads, "--threads") if threads else None,
        sessions=_numbers(sessions, "--sessions") if sessions else None,
        device=parse_device(device),
        candidates=_names(candidates),
        backends=_names(backend),
        precisions=_precisions(precisions),
        data=data,
        labels=labels,
        rounds=rounds,
        max_rounds=max(rounds, RaceOptions().max_rounds),
        force=force,
    )
    _race(model, options, out=out, report=report, as_json=as_json)


def _race(model: str, options: RaceOptions, *, out: Path | None, report: Path | None, as_json: bool) -> None:
    from runoff.race.api import race_model
    from runoff.race.report.data import result_data
    from runoff.race.report.page import load_template, write_report
    from runoff.race.report.terminal import ProgressListener, print_result

    if report is not None:
        load_template()  # before the race: it would be late to learn afterwards that the report cannot be written
    with ProgressListener(console(stderr=True)) as listener:
        result = race_model(model, options, listener, out=out)
    if report is not None:
        write_report(result, report)
    if as_json:
        print_json(result_data(result))
    else:
        print_result(result, console())
        if report is not None:
            console().print(f"report: {report}", markup=False)
    if result.decision.chosen is None:
        raise RaceError("no candidate is eligible: see the reasons above")


def _names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _precisions(text: str | None) -> tuple[Precision, ...] | None:
    from runoff.types import Precision

    known = [precision.value for precision in Precision]
    names = _names(text)
    for name in names or ():
        if name not in known:
            raise unknown_name("precision", name, known)
    return None if names is None else tuple(Precision(name) for name in names)


def _numbers(text: str, option: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UnknownName(f"{option} {text!r} is not a list of whole numbers from 1", hint=f"{option} 1,8")
    return tuple(dict.fromkeys(int(part) for part in parts))


def read_fraction(text: str | None) -> float | None:
    """Percentage points (`0.5pp`) or a fraction (`0.005`) as a fraction."""
    if text is None:
        return None
    number, scale = (text[:-2], 0.01) if text.endswith("pp") else (text, 1.0)
    try:
        value = float(number) * scale
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UnknownName(f"--max-metric-drop {text!r} is neither percentage points nor a fraction", hint="0.5pp")
    return value


def _bytes(text: str | None) -> int | None:
    """A size such as 500MB or 2GB in bytes; units are powers of 1024."""
    if text is None:
        return None
    units = {"KB": 2**10, "MB": 2**20, "GB": 2**30, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    upper = text.upper().strip()
    unit = next((unit for unit in sorted(units, key=len, reverse=True) if upper.endswith(unit)), "")
    try:
        value = float(upper.removesuffix(unit)) * units.get(unit, 1)
    except ValueError:
        value = 0.0
    if value <= 0:
        raise UnknownName(f"--max-memory {text!r} is not a size", hint="500MB or 2GB")
    return int(value)
