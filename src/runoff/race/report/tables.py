"""The tables of the report as cells of text; knows standings and how figures are written, and no HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from runoff.race.record import Record
from runoff.race.report.figures import MISSING, decimals_for, fixed, mebibytes, percent, points, scientific
from runoff.race.report.standings import BatchFigures, Standing


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, the unit below it, and a heading that it shares with its neighbours.

    `is_edge` marks the first one below such a heading.
    """

    title: str
    unit: str = ""
    group: str = ""
    is_text: bool = False
    is_edge: bool = False


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table with one row a standing.

    Attributes:
        groups: shared headings with the number of columns below each.
        rows: the standing, for its verdict, and the cells.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Standing, tuple[str, ...]], ...]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Shared headings with the number of columns that each spans; empty when there are none."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if len(spans) > 1 else []


def speed_table(field: Sequence[Standing], batches: Sequence[int]) -> ReportTable:
    """Latency percentiles and throughput at each batch size, of those that were timed."""
    timed = [standing for standing in field if standing.batches]
    columns = [*_who(), Column("threads")]
    cells = [_names(timed), _runs_at(timed), _threads(timed)]
    sessions = [standing.candidate.sessions if standing.candidate else 1 for standing in timed]
    if any(count > 1 for count in sessions):
        columns.append(Column("sessions"))
        cells.append([str(count) for count in sessions])
    for batch in batches:
        figures = [standing.at(batch) for standing in timed]
        group = f"batch {batch}"
        decimals = decimals_for(found.p50_ms for found in figures if found)
        for title, unit, value in _LATENCIES:
            columns.append(Column(title, unit, group))
            cells.append([fixed(value(found), decimals) if found else MISSING for found in figures])
            if title == "p50":
                columns.append(Column("±", "%", group))
                cells.append([percent(found.spread) if found else MISSING for found in figures])
        rates = [found.items_per_s if found else None for found in figures]
        columns.append(Column("items/s", "", group))
        cells.append([fixed(rate, min(1, decimals_for(rates))) for rate in rates])
    columns += [Column("rounds", "", "timed"), Column("runs", "", "timed")]
    cells.append([str(max(found.rounds for found in standing.batches)) for standing in timed])
    cells.append([fixed(sum(found.runs for found in standing.batches), 0) for standing in timed])
    return _table("Latency and throughput", timed, columns, cells)


def fidelity_table(field: Sequence[Standing], record: Record) -> ReportTable:
    """Start, memory, size and fidelity of every candidate that was opened."""
    opened = [standing for standing in field if standing.candidate is not None]
    columns = list(_who())
    cells = [_names(opened), _runs_at(opened)]

    def add(column: Column, texts: Iterable[str]) -> None:
        columns.append(column)
        cells.append(list(texts))

    for title, seconds in (
        ("cold start", [standing.cold_start_s for standing in opened]),
        ("load", [standing.load_s for standing in opened]),
    ):
        add(Column(title, "s", "start"), [fixed(value, min(2, decimals_for(seconds))) for value in seconds])
    for title, sizes in (
        ("peak memory", [mebibytes(standing.peak_memory_bytes) for standing in opened]),
        ("files", [mebibytes(standing.size_bytes) for standing in opened]),
    ):
        decimals = 0 if title == "peak memory" else min(2, decimals_for(sizes, 2))
        add(Column(title, "MiB", "size"), [fixed(value, decimals) for value in sizes])
    group = "against the reference"
    found = [standing.fidelity for standing in opened]
    add(Column("max abs error", "", group), [scientific(one.max_abs if one else None) for one in found])
    add(Column("max rel error", "", group), [scientific(one.max_rel if one else None) for one in found])
    add(Column("centred cosine", "", group), [fixed(one.centred_cosine if one else None, 6) for one in found])
    if any(one and one.top1 is not None for one in found):
        add(Column("top-1 agreement", "%", group), [percent(one.top1 if one else None, 2) for one in found])
    for name in _metric_names(opened, record):
        add(Column(name, "%", "labelled data"), [percent(standing.metric.get(name), 2) for standing in opened])
        changes = [points(standing.metric_change.get(name)) for standing in opened]
        add(Column("to the reference", "pp", "labelled data"), changes)
    return _table("Start, memory and fidelity", opened, columns, cells)


_LATENCIES: tuple[tuple[str, str, Callable[[BatchFigures], float]], ...] = (
    ("p50", "ms", lambda figures: figures.p50_ms),
    ("p95", "ms", lambda figures: figures.p95_ms),
    ("p99", "ms", lambda figures: figures.p99_ms),
)


def _who() -> tuple[Column, Column]:
    return Column("candidate", is_text=True), Column("runs at", is_text=True)


def _names(field: Sequence[Standing]) -> list[str]:
    return [standing.candidate_id for standing in field]


def _runs_at(field: Sequence[Standing]) -> list[str]:
    return [str(standing.runs_at or MISSING) for standing in field]


def _threads(field: Sequence[Standing]) -> list[str]:
    """What the session reports, else what was asked for."""
    asked = [standing.candidate.num_threads if standing.candidate else None for standing in field]
    said = [standing.facts.get("threads") for standing in field]
    return [str(own or wanted or "all") for own, wanted in zip(said, asked, strict=True)]


def _metric_names(field: Sequence[Standing], record: Record) -> list[str]:
    return list(dict.fromkeys([*record.reference_metric, *(name for standing in field for name in standing.metric)]))


def _table(title: str, field: Sequence[Standing], columns: list[Column], cells: list[list[str]]) -> ReportTable:
    rows = tuple(zip(field, zip(*cells, strict=True), strict=True))
    before = ["", *(column.group for column in columns)]
    edged = (replace(column, is_edge=column.group != last) for column, last in zip(columns, before, strict=False))
    return ReportTable(title, tuple(edged), rows)
