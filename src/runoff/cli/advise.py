"""`runoff advise`: which forms of a model to ship for some hardware, why, and with which commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from runoff.cli.console import console, print_json
from runoff.errors import UnknownName

if TYPE_CHECKING:
    from runoff.race.advice.api import Advice
    from runoff.race.advice.recommend import Figures, Recommendation

_MIB = 2**20


def advise(
    model: Annotated[str, typer.Argument(help="A model folder, file, Hugging Face folder, hub id or URL.")],
    hardware: Annotated[
        str | None, typer.Option(help="nvidia, intel, amd, arm, apple, android, browser; one or a list.")
    ] = None,
    sensitivity: Annotated[
        str | None, typer.Option(help="latency, throughput, accuracy, memory, size or cold-start.")
    ] = None,
    targets: Annotated[str | None, typer.Option(help="How many kinds of machine: one, few or many.")] = None,
    measure: Annotated[
        bool | None,
        typer.Option(
            "--measure/--no-measure",
            help="Make and race here what can be; unasked for models of up to 32 MiB.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the advice as JSON.")] = False,
) -> None:
    """Advise which forms to ship; asks what an option leaves out. What was not measured here says so."""
    from runoff.race.advice.api import advise as advise_on
    from runoff.race.advice.rules import HARDWARE, SENSITIVITIES, TARGETS
    from runoff.race.options import silent
    from runoff.race.report.terminal import ProgressListener

    kinds = _ask("--hardware", hardware, "Which hardware (one, or a list with commas)?", HARDWARE)
    what = _ask("--sensitivity", sensitivity, "What does it depend on most?", SENSITIVITIES)
    count = _ask("--targets", targets, "How many kinds of machine?", TARGETS)
    with nullcontext(silent) if as_json else ProgressListener(console(stderr=True)) as listener:
        advice = advise_on(model, hardware=kinds, sensitivity=what, targets=count, measure=measure, listener=listener)
    if as_json:
        print_json(advice)
        return
    for line in _lines(advice):
        console().print(line, markup=False, soft_wrap=True)


def _ask(option: str, given: str | None, question: str, words: Mapping[str, str]) -> str:
    """What the option says, else what the person at the terminal answers.

    Raises:
        UnknownName: the option is missing and nobody can be asked.
    """
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise UnknownName(
            f"{option} is missing, and there is no terminal to ask at", hint=f"{option} {next(iter(words))}"
        )
    err = console(stderr=True)
    err.print(question)
    for word, meaning in words.items():
        err.print(f"  {word:<12} {meaning}", markup=False)
    answer: str = typer.prompt(option.removeprefix("--"), err=True)
    return answer


def _lines(advice: Advice) -> Iterator[str]:
    asked, profile = advice.questions, advice.profile
    plural = "" if asked.targets == "one" else "s"
    yield f"{profile.name}, sensitive to {asked.sensitivity}, for {asked.targets} kind{plural} of machine"
    yield f"  {_about(advice)}"
    for hardware in asked.hardware:
        yield ""
        yield hardware
        own = [each for each in advice.recommendations if each.hardware == hardware]
        for each in own:
            yield from _recommendation(each)
        if not own:
            yield "  nothing that this model can become"
        for refusal in (each for each in advice.refused if each.hardware == hardware):
            yield f"  not {refusal.form}: {refusal.reason}"
    if advice.raced_at:
        yield ""
        yield f"figures: {advice.machine}, raced at {advice.raced_at}"
    for note in advice.notes:
        yield f"note: {note}"


def _about(advice: Advice) -> str:
    profile = advice.profile
    share = profile.weights.linear_share if profile.weights else None
    where = "where its weights lie is not known" if share is None else f"{share * 100:.0f} % of its weights are linear"
    parts = [f"{profile.size_bytes / _MIB:.3g} MiB", where]
    parts.append("open batch" if profile.takes_any_batch else f"batch {profile.batch}")
    if profile.open_dimensions:
        parts.append(f"open {', '.join(profile.open_dimensions)}")
    parts.append("labelled data of its own" if profile.has_data else "no data of its own")
    return "; ".join(parts)


def _recommendation(each: Recommendation) -> Iterator[str]:
    yield f"  {each.role}: {each.candidate}, {each.runtime} ({each.proven})"
    for reason in each.why:
        yield f"    {reason}"
    if each.measured is not None:
        yield f"    measured: {', '.join(_figures(each.measured))}"
        if each.measured.holds_for != "all of it":
            yield f"    of that holds there: {each.measured.holds_for}"
    else:
        yield f"    {each.unmeasured}"
    for command in each.commands:
        yield f"    $ {command}"


def _figures(figures: Figures) -> Iterator[str]:
    yield figures.candidate
    if figures.p50_ms is not None:
        yield f"{figures.p50_ms:.3g} ms at batch {figures.batch}"
    if figures.items_per_s is not None:
        yield f"{figures.items_per_s:.3g} rows a second"
    if figures.cold_start_s is not None:
        yield f"starts in {figures.cold_start_s:.2f} s"
    if figures.peak_memory_bytes is not None:
        yield f"{figures.peak_memory_bytes / _MIB:.0f} MiB of memory"
    yield f"{figures.size_bytes / _MIB:.3g} MiB of files"
    if figures.max_rel is not None:
        yield f"largest relative error {figures.max_rel:.2g}"
    for name, value in figures.metric.items():
        yield f"{name} {value * 100:.2f} %"
