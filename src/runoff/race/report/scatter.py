"""The chart of latency against error: every candidate as a point, the limits of its contract as lines.

Knows standings and limits. Both axes are logarithmic; an error of exactly zero has a line of its own at the bottom.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

from runoff.race.fidelity import LEVELS, Contract
from runoff.race.report.chart import (
    Box,
    Labeller,
    LogScale,
    Placed,
    Point,
    Shape,
    chart,
    group,
    line,
    log_scale,
    marker,
    text,
    text_width,
    to_markup,
)
from runoff.race.report.figures import percent, rounded, scientific
from runoff.race.report.standings import BatchFigures, Standing, Verdict

SHAPES: dict[Verdict, Shape] = {"won": "star", "tie": "diamond", "eligible": "circle", "rejected": "cross"}
_ORDER: tuple[Verdict, ...] = ("won", "tie", "eligible", "rejected")
_ZERO_BAND = 44.0
"""Height below the smallest error: the line of zero, and labels on both sides of it."""
_ROUNDING = 1e-8
"""Smaller errors than this are below the rounding of fp32 and need no decades of their own."""


@dataclass(frozen=True, slots=True)
class Dot:
    """A candidate that has both a latency and an error."""

    standing: Standing
    figures: BatchFigures
    max_rel: float


def dots(standings: Sequence[Standing], batch: int) -> list[Dot]:
    """The candidates that can be drawn, the winner first: those with a latency at `batch` and an error."""
    found = [
        Dot(standing, figures, standing.fidelity.max_rel)
        for standing in standings
        if standing.fidelity is not None and (figures := standing.at(batch)) and standing.verdict in SHAPES
    ]
    return sorted(found, key=lambda dot: _ORDER.index(dot.standing.verdict))


def limit_lines(contract: Contract) -> list[tuple[str, float]]:
    """The limits of error that the contract draws, by name."""
    if contract.max_error is not None:
        return [("largest error asked for", contract.max_error)]
    if contract.level is not None:
        return [(f"{contract.level}, asked for", LEVELS[contract.level].max_rel)]
    about = {"exact": "exact (fp32)", "close": "close (16 bit)", "bounded": "bounded (8 bit)"}
    return [(about[level], limits.max_rel) for level, limits in LEVELS.items()]


def scatter(found: Sequence[Dot], limits: Sequence[tuple[str, float]], width: float) -> str:
    """The chart as SVG.

    Args:
        found: what `dots` answers; at least one.
        limits: what `limit_lines` answers.
        width: in CSS pixels, from 320; a narrow chart names crowded points by their number.
    """
    height = 430.0 if width > 600 else 400.0
    svg = chart(width, height, "latency against the largest relative error of every candidate")
    area = Box(62.0, 14.0, width - 16.0, height - 48.0)
    x, y = _scales(found, limits, area)
    has_zero = any(dot.max_rel == 0 for dot in found)
    _axes(svg, area, x, y)
    labeller = Labeller(area)
    _limits(svg, area, y, limits, labeller)
    zero_y = area.bottom - _ZERO_BAND / 2
    if has_zero:
        line(svg, "zero", (area.left, zero_y), (area.right, zero_y))
        text(svg, "tick", (area.left - 8, zero_y + 4), "0", "end")
    placed_points = [
        (dot, Point(x(dot.figures.p50_ms), y(dot.max_rel) if dot.max_rel > 0 else zero_y, *_names(dot)))
        for dot in found
    ]
    labeller.avoid([point for _, point in placed_points])
    labels = [(dot, labeller.place(point)) for dot, point in placed_points]
    for dot, label in labels:
        _leader(svg, dot, label)
    # The winner is drawn last, on top of what lies under it.
    for dot, label in reversed(labels):
        _draw(svg, dot, label)
    return to_markup(svg)


def _names(dot: Dot) -> tuple[str, str]:
    return dot.standing.candidate_id, str(dot.standing.number)


def _scales(found: Sequence[Dot], limits: Sequence[tuple[str, float]], area: Box) -> tuple[LogScale, LogScale]:
    x = log_scale([dot.figures.p50_ms for dot in found], area.left + 10, area.right - 10)
    errors = [max(dot.max_rel, _ROUNDING) for dot in found if dot.max_rel > 0]
    bottom = area.bottom - (_ZERO_BAND if any(dot.max_rel == 0 for dot in found) else 6)
    y = log_scale([*errors, *(value for _, value in limits)], bottom, area.top + 6)
    return x, y


def _axes(svg: ET.Element, area: Box, x: LogScale, y: LogScale) -> None:
    for value in x.ticks(9 if area.right > 600 else 5):
        line(svg, "grid", (x(value), area.top), (x(value), area.bottom))
        text(svg, "tick", (x(value), area.bottom + 17), f"{value:.4g}", "middle")
    for value in y.ticks(9):
        line(svg, "grid", (area.left, y(value)), (area.right, y(value)))
        text(svg, "tick", (area.left - 8, y(value) + 4), f"{value:.0e}".replace("e-0", "e-").replace("e+00", ""), "end")
    line(svg, "axis", (area.left, area.bottom), (area.right, area.bottom))
    line(svg, "axis", (area.left, area.top), (area.left, area.bottom))
    text(svg, "title", ((area.left + area.right) / 2, area.bottom + 38), "p50 latency, ms (log scale)", "middle")
    title = text(svg, "title", (0, 0), "largest relative error (log scale)", "middle")
    title.set("transform", f"translate(13 {(area.top + area.bottom) / 2:.2f}) rotate(-90)")


def _limits(svg: ET.Element, area: Box, y: LogScale, limits: Sequence[tuple[str, float]], labeller: Labeller) -> None:
    """The lines, each named at the right end above it."""
    for name, value in limits:
        at = y(value)
        words = f"{name} ≤ {value:g}"
        line(svg, "limit", (area.left, at), (area.right, at))
        text(svg, "limit-name", (area.right - 4, at - 5), words, "end")
        labeller.taken.append(Box(area.right - 4 - text_width(words), at - 16, area.right, at))
        labeller.taken.append(Box(area.left, at - 1, area.right, at + 1))


def _leader(svg: ET.Element, dot: Dot, label: Placed) -> None:
    if label.is_far:
        near = label.box.bottom if label.box.bottom < label.point.y else label.box.top
        across = min(max(label.point.x, label.box.left), label.box.right)
        line(svg, f"leader {dot.standing.verdict}", (label.point.x, label.point.y), (across, near))


def _draw(svg: ET.Element, dot: Dot, label: Placed) -> None:
    found = group(svg, f"point {dot.standing.verdict}", tooltip(dot))
    marker(found, SHAPES[dot.standing.verdict], label.point.x, label.point.y)
    text(found, "name", (label.x, label.y), label.words, label.anchor)


def tooltip(dot: Dot) -> str:
    """What is known of a point, one fact a line."""
    standing, figures = dot.standing, dot.figures
    spread = f" ±{percent(figures.spread)} %" if figures.spread is not None else ""
    facts = [
        f"{standing.candidate_id} ({standing.verdict})",
        f"p50 {rounded(figures.p50_ms)} ms{spread} at batch {figures.batch}",
        f"largest relative error {scientific(dot.max_rel)}",
    ]
    if standing.reason:
        facts.append(standing.reason)
    return "\n".join(facts)
