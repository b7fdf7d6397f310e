"""`runoff run`: open the model with its best package and answer one input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from runoff.cli.console import console, print_json
from runoff.cli.source import fetching

if TYPE_CHECKING:
    from runoff.model import Model
    from runoff.race.wish import Objective


def run(
    model: Annotated[str, typer.Argument(help="A model folder, file, Hugging Face folder, hub id or URL.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Images, sounds, texts, JSON objects of them, or .npz files of arrays."
        ),
    ],
    backend: Annotated[str | None, typer.Option(help="One backend or an ordered list, such as torch,onnx.")] = None,
    precision: Annotated[str | None, typer.Option(help="One precision or an ordered list.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to run, such as cpu or cuda:0.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one run.")] = None,
    objective: Annotated[str, typer.Option(help="latency, throughput, cold-start, memory or size.")] = "latency",
    verify: Annotated[bool, typer.Option("--verify", help="Let the package answer the golden pair first.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the raw outputs to this .npz file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the predictions as JSON.")] = False,
) -> None:
    """Answer inputs with the package that the race chose, and say which one answered."""
    import warnings

    from runoff.auto import AutoModel

    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        with fetching() as source:
            opened = AutoModel.from_pretrained(
                model,
                backend=backend.split(",") if backend else None,
                precision=precision.split(",") if precision else None,
                device=device,
                num_threads=threads,
                objective=cast("Objective", objective),
                source=source,
                verify=verify,
            )
        with opened:
            answers = _answer(opened, inputs, output)
        notes += [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    package = {"id": opened.package.id, "candidate": opened.candidate.id, "backend": opened.package.backend}
    if as_json:
        print_json({"predictions": answers, "package": package, "notes": notes})
        return
    out = console()
    for answer in answers:
        out.print(f"{answer['input']}: {answer['text']}", markup=False)
    for note in dict.fromkeys(notes):
        out.print(f"note: {note}", markup=False)
    out.print(f"answered by {opened.candidate.id} ({opened.package.backend}, {opened.facts.get('precision')})")


def _answer(model: Model, inputs: list[str], output: Path | None) -> list[dict[str, Any]]:
    """The predictions as JSON values with their text; the raw outputs of all inputs go to `output`."""
    import numpy as np

    from runoff.models.arrays import write_npz

    answers, raw = [], []
    for name in inputs:
        arrays = model.task.prepare(_value(name))
        raw.append(model.task.compute(model.run, arrays))
        for prediction in model.task.predict(raw[-1]):
            answers.append({"input": name, "text": str(prediction), **prediction.to_dict()})
    if output is not None:
        write_npz(output, {name: np.concatenate([part[name] for part in raw]) for name in raw[0]})
    return answers


def _value(text: str) -> Any:
    """An argument as the task takes it: arrays by name from an .npz file, an object from JSON, else the text itself.

    Raises:
        InputError: it begins as a JSON object does, and is none.
        FormatMismatch: a damaged .npz file.
    """
    from runoff.errors import InputError
    from runoff.models.arrays import read_npz

    if text.endswith(".npz") and Path(text).is_file():
        return read_npz(Path(text))
    if not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"the input is no JSON object: {error}", hint="quote it for the shell") from error
