"""A race on the terminal: its progress while it runs, and the table of its outcome.

Knows events and standings. Progress goes to the console that it is given, normally standard error, so that JSON on
standard output stays whole.
"""

from __future__ import annotations

import time
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from runoff.race.options import Event
from runoff.race.report.figures import MISSING, decimals_for, fixed, mebibytes, percent, printable, scientific
from runoff.race.report.headline import headline
from runoff.race.report.standings import BatchFigures, Standing, Verdict, all_notes, standings
from runoff.race.run import RaceResult

_STYLES: dict[Verdict, str] = {
    "won": "bold green",
    "tie": "cyan",
    "guessed": "bold yellow",
    "unmeasured": "dim",
    "rejected": "dim",
}
_STAGES = {"wait": "waiting", "make": "making", "check": "checking", "time": "timing", "done": "done"}
_ROOMY = 120
_LINE_EVERY_S = 5.0
"""Where lines cannot be redrawn: a log should show that a race is alive, not every turn."""


def print_result(result: RaceResult, console: Console) -> None:
    """Print the outcome: the sentence, the table, those that were rejected with reasons, the notes."""
    outcome = headline(result)
    sentence = Text(printable(outcome.subject), "bold green" if result.decision.chosen else "bold red")
    console.print(sentence.append(f" {printable(outcome.predicate)}", "not bold default"))
    if result.decision.serving is not None:
        console.print(Text(f"serve with: {result.decision.serving}"))
    for table in (race_table(result, console.width), rejection_table(result)):
        if table.row_count:
            console.print()
            console.print(table)
    for note in all_notes(result):
        console.print(Text(f"note: {printable(note)}"))


def race_table(result: RaceResult, width: int = 140) -> Table:
    """Every candidate that was opened, the ranking first; with several batch sizes each has a line of its own.

    Args:
        width: columns that there are; readable from 100, and roomier from 120.
    """
    field = [standing for standing in standings(result) if standing.candidate is not None]
    batches = result.record.settings.batches
    metrics = list(dict.fromkeys(name for standing in field for name in standing.metric))
    table = _bare_table(1 if width >= _ROOMY else 0)
    table.add_column("candidate", overflow="fold", min_width=12)
    table.add_column("runs\nat", no_wrap=True)
    for title in (*(["batch"] if len(batches) > 1 else []), "p50 ms", "p95 ms", "items/s"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("start\ns", "memory\nMiB", "max rel\nerror", *(f"{printable(name)}\n%" for name in metrics)):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True, min_width=8)
    timed = [figures for standing in field for figures in standing.batches]
    decimals = decimals_for(figures.p50_ms for figures in timed)
    for standing in field:
        speeds = [(str(batch), *_speed(standing.at(batch), decimals)) for batch in batches]
        first = 0 if len(batches) > 1 else 1
        table.add_row(
            str(standing.number),
            Text(printable(standing.candidate_id)),
            str(standing.runs_at or MISSING),
            *("\n".join(lines) for lines in list(zip(*speeds, strict=True))[first:]),
            *_about(standing),
            *(percent(standing.metric.get(name), 2) for name in metrics),
            standing.verdict,
            style=_STYLES.get(standing.verdict),
        )
    return table


def rejection_table(result: RaceResult) -> Table:
    """Every candidate that was rejected or has no figure, and every package that could not be made, with the reason."""
    table = _bare_table(1)
    table.add_column("not eligible", overflow="fold", min_width=12)
    table.add_column("reason", overflow="fold", ratio=1)
    for standing in standings(result):
        if standing.reason:
            reason = Text(printable(standing.reason))
            if standing.hint:
                reason.append(f"\nhint: {printable(standing.hint)}", "dim")
            table.add_row(str(standing.number), Text(printable(standing.candidate_id)), reason)
    return table


def _bare_table(padding: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, padding, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("#", justify="right", no_wrap=True)
    return table


def _speed(figures: BatchFigures | None, decimals: int) -> tuple[str, str, str]:
    if figures is None:
        return MISSING, MISSING, MISSING
    spread = f" ±{percent(figures.spread):>4}%" if figures.spread is not None else " " * 7
    p50 = f"{fixed(figures.p50_ms, decimals)}{spread}"
    return p50, fixed(figures.p95_ms, decimals), fixed(figures.items_per_s, 0)


def _about(standing: Standing) -> tuple[str, str, str]:
    error = standing.fidelity.max_rel if standing.fidelity else None
    return fixed(standing.cold_start_s, 2), fixed(mebibytes(standing.peak_memory_bytes), 0), scientific(error)


class ProgressListener:
    """Shows the steps of a race while it runs; a context manager.

    On a terminal one line with a bar, gone at the end; elsewhere a line of text for each stage, and every few seconds
    one that says how far it is.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._stage: str | None = None
        self._printed_s = 0.0

    def __enter__(self) -> ProgressListener:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[detail]}", markup=False),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
                # Standard output belongs to the result, JSON perhaps: rich would send it to this console.
                redirect_stdout=False,
            )
            self._progress.start()
        return self

    def __call__(self, event: Event) -> None:
        """Show a step."""
        if self._progress is None:
            self._print(event)
            return
        detail = printable(event.detail)
        if self._task is None or event.stage != self._stage:
            # A new task and not a reset one, which would keep the total of the stage before.
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._stage = event.stage
            self._task = self._progress.add_task(_STAGES.get(event.stage, event.stage), total=None, detail=detail)
        if event.total:
            self._progress.update(self._task, total=event.total, completed=event.done, detail=detail)
        else:
            # A step within a step, such as warming up, leaves the bar where it is.
            self._progress.update(self._task, detail=detail)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _print(self, event: Event) -> None:
        now = time.monotonic()
        if event.stage == self._stage and now - self._printed_s < _LINE_EVERY_S:
            return
        self._stage, self._printed_s = event.stage, now
        steps = f" {event.done + 1}/{event.total}" if event.done < event.total else ""
        line = f"{_STAGES.get(event.stage, event.stage)}{steps}: {printable(event.detail)}"
        self._console.print(Text(line), soft_wrap=True)
