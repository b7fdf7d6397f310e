"""The figures of the choice as text: for the terminal, and as the section of docs/choosing.md between two comments."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from choice_cells import (
    ALLOWED_REGRET,
    CONTRACTS,
    INSTALLS,
    ORDERS,
    Cell,
    ModelChoice,
    Starts,
    beats_freed_orders,
    beats_orders,
    install_ratio,
    order_ratio,
)
from output import machine_line, replace_section
from reference_models import MODELS
from runoff.race.fidelity import Level

PAGE = Path(__file__).parent.parent / "docs" / "choosing.md"
BEGIN = "<!-- table of choices: begin; `python benchmarks/choice.py --write` rewrites what follows -->"
END = "<!-- table of choices: end -->"


def print_choice(choice: ModelChoice) -> None:
    """Every cell of a model with all of its candidates, and its cold starts."""
    for cell in choice.cells:
        verdict = "ok" if cell.holds else "MISSED"
        print(f"\n{choice.model}, batch {cell.batch}, contract {cell.contract}")
        print(
            f"  pick {cell.pick.candidate}: {cell.pick.ms:.3f} ms; best {cell.best.candidate}: {cell.best.ms:.3f} ms;",
            end="",
        )
        print(f" regret {cell.regret:.3f} (spread {cell.spread * 100:.1f} %) {verdict}")
        for order, timed in cell.orders.items():
            print(f"  {order}: {timed.ms:.3f} ms, {timed.ms / cell.pick.ms:.2f} x the pick")
        for backend, timed in cell.installs.items():
            print(f"  only {backend}: {timed.candidate}, {timed.ms:.3f} ms, {timed.ms / cell.pick.ms:.2f} x the pick")
        for candidate, latency_ms in sorted(cell.latencies_ms.items(), key=lambda item: item[1]):
            print(f"    {candidate:<32} {latency_ms:9.3f} ms")
    print(f"\n{choice.model}, process start to first output")
    for candidate, seconds in sorted(choice.starts.seconds.items(), key=lambda item: item[1]):
        chosen = [level for level, name in choice.starts.picks.items() if name == candidate]
        print(f"    {candidate:<32} {seconds:7.2f} s  {'picked for ' + ', '.join(chosen) if chosen else ''}")
    for narrow in choice.narrow:
        print(f"    {narrow.candidate:<32} error {narrow.max_rel:.2g}  {narrow.outside or 'within bounded'}")
    for name, reason in choice.failures.items():
        print(f"    {name:<32} {reason}")
    print("  took " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in choice.seconds.items()))


def print_summary(choices: Sequence[ModelChoice]) -> bool:
    """The findings by contract; answers whether every pick holds."""
    print()
    for line in findings(choices):
        print(line)
    return all(cell.holds for choice in choices for cell in choice.cells)


def findings(choices: Sequence[ModelChoice]) -> Iterator[str]:
    """One item for each contract, then the models that are won, cold starts, and what failed."""
    for level in CONTRACTS:
        cells = cells_at(choices, level)
        if not cells:
            continue
        strict = sum(cell.regret <= ALLOWED_REGRET for cell in cells)
        held = sum(cell.holds for cell in cells)
        worst = max(cells, key=lambda cell: cell.regret)
        orders = ", ".join(f"{name} {_ratio(order_ratio(cells, name))}" for name in ORDERS)
        installs = ", ".join(f"{name} {_ratio(install_ratio(cells, name))}" for name in INSTALLS)
        yield (
            f"- `{level}`: the pick is within 5 % of the best in {strict} of {len(cells)} cells, and in {held} within "
            f"5 % or the spread of that timing (largest regret {worst.regret:.2f}). Latency over the pick's, geometric "
            f"mean: {orders}; the best of one runtime alone: {installs}. Both static orders are over 5 % slower on "
            f"{_count(choices, (level,))}."
        )
    yield f"- Over all contracts both static orders are over 5 % slower on {_count(choices, CONTRACTS)}."
    yield f"- {_start_finding(choices)}"


def cells_at(choices: Sequence[ModelChoice], level: Level) -> list[Cell]:
    """All cells under one contract."""
    return [cell for choice in choices for cell in choice.cells if cell.contract == level]


def _count(choices: Sequence[ModelChoice], levels: Sequence[Level]) -> str:
    """On how many models the pick beats both static orders, as followed and when allowed any precision."""
    groups = [[cell for cell in choice.cells if cell.contract in levels] for choice in choices]
    plain, freed = sum(map(beats_orders, groups)), sum(map(beats_freed_orders, groups))
    return f"{plain} of {len(groups)} models, and on {freed} when they know the best form of their runtime"


def _start_finding(choices: Sequence[ModelChoice]) -> str:
    parts = []
    for order, package in ORDERS.items():
        ratios = [ratio for choice in choices if (ratio := _start_ratio(choice.starts, package)) is not None]
        if ratios:
            parts.append(f"{order} {math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}")
    return f"Cold start over that of the pick for `cold-start` under `exact`, geometric mean: {', '.join(parts)}."


def _start_ratio(starts: Starts, package: str) -> float | None:
    theirs = _start_of(starts, package)
    ours = starts.seconds.get(starts.picks["exact"])
    return theirs / ours if theirs and ours else None


def _start_of(starts: Starts, package: str) -> float | None:
    """Seconds of the plain candidate of a package."""
    return next((seconds for name, seconds in starts.seconds.items() if name.partition("@")[0] == package), None)


def write_page(choices: Sequence[ModelChoice], note: str) -> int:
    """Write the section into the page."""
    if not choices:
        print("no figures to write: run the benchmark first", file=sys.stderr)
        return 1
    PAGE.write_text(replace_section(PAGE.read_text(), BEGIN, END, page_lines(choices, note)))
    print(f"wrote {PAGE.name}")
    return 0


def page_lines(choices: Sequence[ModelChoice], note: str) -> list[str]:
    """The section: the machine, the findings, then latency, cold start and 8 bits."""
    machine = machine_line(
        [choice.facts for choice in choices],
        [choice.threads for choice in choices],
        [choice.raced_at[:10] for choice in choices],
    )
    return [
        *([machine] if not note else [machine, note]),
        "",
        *findings(choices),
        "",
        *_latency_table(choices),
        "",
        *_start_table(choices),
        "",
        *_narrow_table(choices),
    ]


def _latency_table(choices: Sequence[ModelChoice]) -> Iterator[str]:
    yield "Latency. The columns after the regret are over the pick's: the static orders at fp32, then the best of one"
    yield "runtime alone within the contract."
    yield ""
    others = (*ORDERS, *(f"only {name}" for name in INSTALLS))
    yield f"| model | batch | contract | pick | ms | regret | {' | '.join(others)} |"
    yield f"|---|---|---|---|---|---|{'---|' * len(others)}"
    for choice in choices:
        for cell in choice.cells:
            orders = [_ratio(order_ratio([cell], name)) for name in ORDERS]
            installs = [_ratio(install_ratio([cell], name)) for name in INSTALLS]
            regret = f"{cell.regret:.2f}" if cell.holds else f"**{cell.regret:.2f}**"
            yield (
                f"| {MODELS[choice.model].title} | {cell.batch} | {cell.contract} | `{cell.pick.candidate}` "
                f"| {cell.pick.ms:.3g} | {regret} | {' | '.join((*orders, *installs))} |"
            )


def _start_table(choices: Sequence[ModelChoice]) -> Iterator[str]:
    yield "Seconds from process start to first output at batch 1, of the pick for `cold-start` and of the pick for"
    yield "`latency`, under `exact`, and of the static orders:"
    yield ""
    yield f"| model | pick | s | pick for latency | s | {' | '.join(ORDERS)} | OpenVINO at fp32 |"
    yield f"|---|---|---|---|---|{'---|' * len(ORDERS)}---|"
    for choice in choices:
        starts = choice.starts
        pick, quickest = starts.picks["exact"], starts.latency_picks["exact"]
        others = [_seconds(_start_of(starts, package)) for package in (*ORDERS.values(), "openvino-fp32")]
        yield (
            f"| {MODELS[choice.model].title} | `{pick}` | {_seconds(starts.seconds.get(pick))} | `{quickest}` "
            f"| {_seconds(starts.seconds.get(quickest))} | {' | '.join(others)} |"
        )


def _narrow_table(choices: Sequence[ModelChoice]) -> Iterator[str]:
    found = [(choice, narrow) for choice in choices for narrow in choice.narrow]
    if not found:
        return
    yield "Largest relative error at 8 bits. Weights are random: activations of an untrained net spread further than"
    yield "trained ones, so that these figures are a stress test. What is outside is no candidate under `bounded`."
    yield ""
    yield "| model | candidate | error | within `bounded` |"
    yield "|---|---|---|---|"
    for choice, narrow in found:
        title = MODELS[choice.model].title
        yield f"| {title} | `{narrow.candidate}` | {narrow.max_rel:.2g} | {'no' if narrow.outside else 'yes'} |"


def _ratio(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
