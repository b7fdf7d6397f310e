"""`runoff explain`: which package would answer, and why each of the others would not."""

from __future__ import annotations

from typing import Annotated

import typer

from runoff.cli.console import console, print_json
from runoff.cli.source import fetching
from runoff.errors import NoCandidate


def explain(
    model: Annotated[str, typer.Argument(help="A model folder, file, Hugging Face folder, hub id or URL.")],
    backend: Annotated[str | None, typer.Option(help="One backend or an ordered list, such as torch,onnx.")] = None,
    precision: Annotated[str | None, typer.Option(help="One precision or an ordered list.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to run, such as cpu or cuda:0.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Rows of one run.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one run.")] = None,
    objective: Annotated[str, typer.Option(help="latency, throughput, cold-start, memory or size.")] = "latency",
    as_json: Annotated[bool, typer.Option("--json", help="Print the decision as JSON.")] = False,
) -> None:
    """Explain the decision without opening the model; the options are those of `runoff run`."""
    import msgspec

    from runoff.auto import decide_for
    from runoff.environment.describe import describe_environment
    from runoff.export.find import find_folder
    from runoff.models.sources import SourceOptions
    from runoff.race.explain import explain as explain_text
    from runoff.race.wish import make_wish

    wish = make_wish(
        backend=backend.split(",") if backend else None,
        precision=precision.split(",") if precision else None,
        device=device,
        batch_size=batch,
        num_threads=threads,
        objective=objective,
    )
    with fetching(SourceOptions(files=lambda manifest: manifest.files_of(()))) as options:
        folder = find_folder(model, options, wish.backends)
    decision = decide_for(folder, wish, describe_environment())
    if as_json:
        print_json(msgspec.to_builtins(decision))
    else:
        console().print(explain_text(decision), markup=False)
    if decision.chosen is None:
        raise NoCandidate("no package can be opened as wished", rejections={})
