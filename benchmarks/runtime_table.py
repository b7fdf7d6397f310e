"""The table of runtimes as text: for the terminal, and as the section of docs/runtimes.md between two comments."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from output import machine_line, replace_section
from reference_models import MODELS
from runtime_cells import Cell, Form, Result

PAGE = Path(__file__).parent.parent / "docs" / "runtimes.md"
BEGIN = "<!-- table of runtimes: begin; `python benchmarks/runtimes.py --write` rewrites what follows -->"
END = "<!-- table of runtimes: end -->"
TARGET = 0.85
_MIB = 2**20


def write_page(forms: Sequence[Form], results: Sequence[Result], note: str) -> int:
    """Write the section into the page."""
    timed = [result for result in results if result.cells]
    if not timed:
        print("no figures to write: run the benchmark first", file=sys.stderr)
        return 1
    PAGE.write_text(replace_section(PAGE.read_text(), BEGIN, END, page_lines(forms, timed, note)))
    print(f"wrote {PAGE.name}: {core_line(forms, timed)}")
    return 0


def page_lines(forms: Sequence[Form], results: Sequence[Result], note: str) -> list[str]:
    """The section: what was measured where, the table, and the reasons of its red cells."""
    reasons: dict[str, int] = {}
    table = [
        f"| form | {' | '.join(MODELS[result.model].title for result in results)} |",
        f"|---|{'---|' * len(results)}",
    ]
    for form in forms:
        cells = [_cell_text(form, result, reasons) for result in results]
        table.append(f"| `{form.id}` | {' | '.join(cells)} |")
    return [
        *_heading(results, note),
        "",
        *table,
        "",
        core_line(forms, results),
        *(["", "Why not:", ""] if reasons else []),
        *(f"{number}. {reason}" for reason, number in reasons.items()),
    ]


def _heading(results: Sequence[Result], note: str) -> list[str]:
    machine = machine_line(
        [result.facts for result in results],
        [result.threads for result in results],
        [(result.raced_at or "")[:10] for result in results],
    )
    return [
        "Each cell: latency over that of the fastest form of the model, largest relative error, size, seconds to open",
        "(imports included). Batch 1, fp32, random weights; `exact` of [choosing](choosing.md) limits the error.",
        "`b1`: made for batch 1, by its format or because the converter takes no other. A dash has a reason below.",
        "",
        machine,
        *([note] if note else []),
    ]


def _cell_text(form: Form, result: Result, reasons: dict[str, int]) -> str:
    cell, done = result.cells.get(form.id), result.conversions.get(form.id)
    if cell is None and done is not None and done.reason:
        cell = Cell(done.reason)
    if cell is None:
        return "not tried" if done is None else "converts, not raced"
    size = "" if cell.size_bytes is None else f"{cell.size_bytes / _MIB:.3g} MiB"
    if cell.reason:
        number = reasons.setdefault(cell.reason, len(reasons) + 1)
        return f"- ({number})" if not cell.converts else f"- ({number}), {size}"
    best = best_ms(result)
    ratio = "" if cell.p50_ms is None or best is None else f"**{cell.p50_ms / best:.2f}**"
    error = "0" if not cell.max_rel else f"{cell.max_rel:.0e}".replace("e-0", "e-")
    load = "" if cell.load_s is None else f"{cell.load_s:.2f} s"
    return ", ".join((ratio, error, size, load, *(["b1"] if result.is_static(form.id) else [])))


def best_ms(result: Result) -> float | None:
    """The latency of the fastest form of a model among those that are right."""
    return min((cell.p50_ms for cell in result.cells.values() if cell.p50_ms and not cell.reason), default=None)


def core_cells(forms: Sequence[Form], results: Sequence[Result]) -> list[Cell | None]:
    """The cells of the five backends that must take every model."""
    return [result.cells.get(form.id) for form in forms if form.is_core for result in results]


def core_line(forms: Sequence[Form], results: Sequence[Result]) -> str:
    """How many of the cells of the core backends are green."""
    cells = core_cells(forms, results)
    green = sum(cell is not None and cell.reason is None for cell in cells)
    names = ", ".join(dict.fromkeys(form.backend.id for form in forms if form.is_core))
    return f"Of the {len(cells)} cells of {names} in their first format, {green} convert, run and are exact."


def print_table(forms: Sequence[Form], results: Sequence[Result]) -> int:
    """Print every cell; 1 where fewer of the core cells that were tried are green than there should be."""
    for result in results:
        print(f"\n{MODELS[result.model].title}")
        for form in forms:
            done, cell = result.conversions.get(form.id), result.cells.get(form.id)
            seconds = "" if done is None else f"made in {done.seconds:.0f} s"
            if cell is None:
                state = "not tried" if done is None else f"{seconds}: {done.reason or 'not raced yet'}"
            elif cell.reason:
                state = f"{seconds}: {cell.reason}"
            else:
                figures = f"{cell.p50_ms or 0:9.3f} ms, error {cell.max_rel or 0:.1e}, open in {cell.load_s or 0:.2f} s"
                state = f"{seconds}: {figures}"
            print(f"  {form.id:<24} {state}")
    timed = [result for result in results if result.cells]
    if not timed:
        return 0
    print(f"\n{core_line(forms, timed)}")
    tried = [cell for cell in core_cells(forms, timed) if cell is not None]
    return 0 if sum(cell.reason is None for cell in tried) >= TARGET * len(tried) else 1
