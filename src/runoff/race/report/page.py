"""The report of a race: one HTML file that needs nothing else, for a screen of any width and for paper.

Gathers what the template shows; how it looks is `page.html.j2`'s, the tables and charts have modules of their own.
Whatever comes from a model, a runtime or a file is escaped by the template or by the SVG writer.
"""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.errors import ModelError, RunoffError
from runoff.models.staging import write_atomically
from runoff.race.report.chart import chart, marker, to_markup
from runoff.race.report.distribution import distribution
from runoff.race.report.figures import MIB, fixed, percent, printable, rounded, scientific
from runoff.race.report.headline import headline
from runoff.race.report.scatter import SHAPES, dots, limit_lines, scatter
from runoff.race.report.searches import searches
from runoff.race.report.standings import Standing, Verdict, all_notes, decisive_batch, standings
from runoff.race.report.tables import fidelity_table, speed_table
from runoff.race.run import RaceResult

if TYPE_CHECKING:
    from jinja2 import Template

_WIDE, _NARROW = 960.0, 380.0
_SHAPE_NAMES = {"won": "winner", "tie": "tie with the winner", "eligible": "eligible", "rejected": "rejected"}


def write_report(result: RaceResult, path: Path) -> None:
    """Write the report to a file, atomically; its folder is made when it is missing.

    Raises:
        RunoffError: jinja2 is not installed.
        ModelError: the file cannot be written.
    """
    page = render_report(result).encode("utf-8", errors="replace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"cannot write {path}: {error.strerror}") from error
    write_atomically(path, page)


def render_report(result: RaceResult) -> str:
    """The report as HTML.

    Raises:
        RunoffError: jinja2 is not installed.
    """
    template = load_template()
    field = standings(result)
    return template.render(
        model=result.decision.model,
        headline=headline(result),
        subtitle=_subtitle(result),
        serving=result.decision.serving,
        tiles=_tiles(result, field),
        legend=_legend({dot.standing.verdict for dot in dots(field, decisive_batch(result))}),
        error_charts=_error_charts(result, field),
        undrawn=_undrawn(result, field),
        metric_decides=_metric_decides(result),
        latency_charts=_latency_charts(result, field),
        tables=(speed_table(field, result.record.settings.batches), fidelity_table(field, result.record)),
        rejected=[standing for standing in field if standing.reason],
        retired=[standing for standing in field if standing.retired],
        searches=searches(result.folder),
        notes=all_notes(result),
        machine=_machine(result),
        fingerprint=result.record.fingerprint,
        settings=_settings(result),
        commands=_commands(result),
        runoff_version=result.environment.runoff_version,
        raced_at=result.record.raced_at,
    )


def load_template() -> Template:
    """The template of the report; asked for before a long race, it tells early that the report cannot be written.

    Raises:
        RunoffError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise RunoffError(
            "the report cannot be written: jinja2 is not installed", hint="pip install 'runoff[report]'"
        ) from error

    def finalize(value: object) -> object:
        is_markup = hasattr(value, "__html__")
        return printable(value) if isinstance(value, str) and not is_markup else value

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=finalize
    )
    return environment.from_string(files("runoff.race.report").joinpath("page.html.j2").read_text(encoding="utf-8"))


def _subtitle(result: RaceResult) -> list[str]:
    wish, cpu = result.decision.wish, result.environment.cpu
    cores = f"{cpu.usable_cores} core{'' if cpu.usable_cores == 1 else 's'}"
    return [
        f"objective: {wish.objective}",
        f"on {wish.device}" if str(wish.device) != "cpu" else f"{cpu.model}, {cores}",
        f"raced at {result.record.raced_at.replace('T', ' ').replace('+00:00', ' UTC')}",
    ]


def _tiles(result: RaceResult, field: tuple[Standing, ...]) -> list[tuple[str, str, str]]:
    """The winner's main figures: name, value, unit."""
    if not field or field[0].verdict != "won":
        return []
    serving = result.decision.serving
    best, batch = field[0], serving.batch if serving else decisive_batch(result)
    tiles = []
    timed = best.at(batch)
    if timed:
        tiles.append((f"p50 latency, batch {batch}", rounded(timed.p50_ms), "ms"))
        tiles.append((f"throughput, batch {batch}", fixed(timed.items_per_s, 0), "items/s"))
    if best.fidelity:
        tiles.append(("largest relative error", scientific(best.fidelity.max_rel), ""))
    tiles += [(name, percent(value, 2), "%") for name, value in best.metric.items()]
    if best.cold_start_s is not None:
        tiles.append(("cold start", rounded(best.cold_start_s), "s"))
    if best.peak_memory_bytes is not None:
        tiles.append(("peak memory", fixed(best.peak_memory_bytes / MIB, 0), "MiB"))
    return tiles


def _legend(present: set[Verdict]) -> list[tuple[str, str, str]]:
    """Class, name and picture of each kind of point that is drawn."""
    legend: list[tuple[str, str, str]] = []
    for verdict, shape in SHAPES.items():
        if verdict in present:
            picture = chart(20, 20, _SHAPE_NAMES[verdict])
            marker(picture, shape, 10, 10)
            legend.append((verdict, _SHAPE_NAMES[verdict], to_markup(picture)))
    return legend


def _error_charts(result: RaceResult, field: tuple[Standing, ...]) -> list[tuple[str, str]]:
    found = dots(field, decisive_batch(result))
    if not found:
        return []
    limits = limit_lines(result.decision.wish.contract)
    return [("wide", scatter(found, limits, _WIDE)), ("narrow", scatter(found, limits, _NARROW))]


def _undrawn(result: RaceResult, field: tuple[Standing, ...]) -> list[str]:
    """Those that are not in the chart of latency against error."""
    drawn = {dot.standing.candidate_id for dot in dots(field, decisive_batch(result))}
    return [standing.candidate_id for standing in field if standing.candidate_id not in drawn]


def _metric_decides(result: RaceResult) -> bool:
    contract = result.decision.wish.contract
    return bool(result.record.reference_metric) and contract.level is None and contract.max_error is None


def _latency_charts(result: RaceResult, field: tuple[Standing, ...]) -> list[tuple[int, list[tuple[str, str]]]]:
    return [
        (batch, [("wide", distribution(field, batch, _WIDE)), ("narrow", distribution(field, batch, _NARROW))])
        for batch in result.record.settings.batches
        if any(standing.at(batch) for standing in field)
    ]


def _machine(result: RaceResult) -> list[tuple[str, str]]:
    """Facts about the machine, then those of the fingerprint that they do not hold."""
    machine = result.environment
    cpu = machine.cpu
    facts = [
        ("CPU", cpu.model),
        ("cores", f"{cpu.usable_cores} usable of {cpu.logical_cores} logical, {cpu.physical_cores} physical"),
        ("CPU features", " ".join(cpu.isa)),
        ("memory", f"{machine.memory.usable_bytes / 2**30:.1f} GiB"),
        ("system", f"{machine.os.name} {machine.os.release}, {machine.os.arch}"),
        ("Python", machine.python),
    ]
    facts += [(f"GPU {index}", f"{gpu.name}, driver {gpu.driver}") for index, gpu in enumerate(machine.gpus)]
    libraries = [*machine.libraries.values(), *machine.tools.values()]
    facts += [(library.title, library.version) for library in libraries if library.version]
    facts.append(("execution providers", " ".join(machine.execution_providers)))
    return [(name, value) for name, value in facts if value]


def _settings(result: RaceResult) -> list[tuple[str, str]]:
    wish, settings = result.decision.wish, result.record.settings
    contract = wish.contract
    facts = [
        ("objective", wish.objective),
        ("batch sizes", ", ".join(str(batch) for batch in settings.batches)),
        ("device", str(wish.device)),
        ("inputs", settings.inputs),
        ("rows compared", fixed(settings.samples, 0)),
        ("reference", result.folder.manifest.reference),
        ("contract", contract.level or "by precision: exact at fp32, close at 16 bit, bounded at 8 bit and below"),
    ]
    if contract.max_error is not None:
        facts.append(("largest relative error", f"{contract.max_error:g}"))
    if contract.max_metric_drop is not None:
        facts.append(("largest drop of the metric", f"{contract.max_metric_drop * 100:g} pp"))
    if wish.max_memory_bytes is not None:
        facts.append(("largest peak memory", f"{wish.max_memory_bytes / MIB:,.0f} MiB"))
    return facts


def _commands(result: RaceResult) -> list[str]:
    """The commands that race again and explain, as far as the record tells how it was raced."""
    wish, settings = result.decision.wish, result.record.settings
    contract = wish.contract
    options: dict[str, Any] = {
        "objective": wish.objective if wish.objective != "latency" else None,
        "batch": ",".join(str(batch) for batch in settings.batches) if settings.batches != (1,) else None,
        "threads": _threads(result),
        "device": wish.device if str(wish.device) != "cpu" else None,
        "contract": contract.level,
        "max-error": contract.max_error,
        "max-metric-drop": contract.max_metric_drop,
        "max-memory": f"{wish.max_memory_bytes / MIB:g}MiB" if wish.max_memory_bytes else None,
        "data": "DATA.npz" if settings.inputs.startswith("data ") else None,
        "labels": "LABELS.npy" if settings.inputs.startswith("data ") and result.record.reference_metric else None,
    }
    name = shlex.quote(result.decision.model)
    flags = [part for option, value in options.items() if value is not None for part in (f"--{option}", str(value))]
    return [
        " ".join(["runoff race", name, *flags, "--force --report report.html"]),
        f"runoff explain {name}" + (f" --objective {wish.objective}" if wish.objective != "latency" else ""),
    ]


def _threads(result: RaceResult) -> str | None:
    """The thread counts that were raced, where they are not the ones that a race picks itself."""
    single = [entrant.candidate for entrant in result.record.entrants if entrant.candidate.sessions == 1]
    raced = {candidate.num_threads for candidate in single} - {None}
    if not raced or raced == {result.environment.cpu.usable_cores, 1}:
        return None
    return ",".join(str(count) for count in sorted(raced, key=str))
