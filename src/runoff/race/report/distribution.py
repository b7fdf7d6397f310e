"""The chart of latency distributions at one batch size: one line a candidate, the fastest at the top, on one axis.

Knows standings. A line shows nested intervals: all but the slowest hundredth, the middle 90 %, the middle half, and
the median.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from runoff.race.report.chart import (
    LogScale,
    chart,
    element,
    group,
    line,
    log_scale,
    marker,
    text,
    text_width,
    to_markup,
)
from runoff.race.report.figures import decimals_for, fixed, percent
from runoff.race.report.scatter import SHAPES
from runoff.race.report.standings import BatchFigures, Standing

_WIDE = 600.0
_TOP = 8.0
_BELOW = 46.0


def distribution(standings: Sequence[Standing], batch: int, width: float) -> str:
    """The chart as SVG; at least one candidate was timed at `batch`.

    Args:
        width: in CSS pixels, from 320; in a narrow chart the names stand above the lines.
    """
    timed = [(standing, figures) for standing in standings if (figures := standing.at(batch))]
    timed.sort(key=lambda pair: pair[1].p50_ms)
    wide = width > _WIDE
    row = 26.0 if wide else 42.0
    bottom = _TOP + row * len(timed) + 4
    svg = chart(width, bottom + _BELOW, f"distribution of the latency of every candidate at batch {batch}")
    names = max(text_width(standing.candidate_id) for standing, _ in timed) + 34 if wide else 10.0
    scale = log_scale(
        [value for _, figures in timed for value in (figures.min_ms, figures.p99_ms)],
        min(names, width / 2),
        width - (74.0 if wide else 10.0),
    )
    _axis(svg, scale, bottom, width)
    decimals = decimals_for([figures.p50_ms for _, figures in timed])
    for index, (standing, figures) in enumerate(timed):
        top = _TOP + row * index
        found = group(svg, f"line {standing.verdict}", _tooltip(standing, figures))
        # An invisible rectangle makes the whole line answer to the pointer.
        element(found, "rect", "hit", x=0, y=top, width=width, height=row)
        middle = top + (row / 2 if wide else row - 14)
        name_y = middle + 4 if wide else top + 15
        if standing.verdict in SHAPES:
            marker(found, SHAPES[standing.verdict], 12, name_y - 4)
        text(found, "name", (26, name_y), standing.candidate_id)
        text(found, "value", (width - 6, name_y), fixed(figures.p50_ms, decimals), "end")
        _intervals(found, scale, figures, middle)
    return to_markup(svg)


def _axis(svg: ET.Element, scale: LogScale, bottom: float, width: float) -> None:
    for value in scale.ticks(8 if width > _WIDE else 5):
        line(svg, "grid", (scale(value), _TOP), (scale(value), bottom))
        text(svg, "tick", (scale(value), bottom + 16), f"{value:.4g}", "middle")
    line(svg, "axis", (scale.start, bottom), (scale.end, bottom))
    text(svg, "title", ((scale.start + scale.end) / 2, bottom + 36), "latency, ms (log scale)", "middle")


def _intervals(parent: ET.Element, scale: LogScale, figures: BatchFigures, y: float) -> None:
    line(parent, "whisker", (scale(figures.min_ms), y), (scale(figures.p99_ms), y))
    for end in (figures.min_ms, figures.p99_ms):
        line(parent, "whisker", (scale(end), y - 4), (scale(end), y + 4))
    for kind, low, high, half in (
        ("most", figures.p5_ms, figures.p95_ms, 4.0),
        ("half", figures.p25_ms, figures.p75_ms, 7.0),
    ):
        # An interval of no width still shows as a hair.
        wide = max(1.0, scale(high) - scale(low))
        element(parent, "rect", kind, x=scale(low), y=y - half, width=wide, height=2 * half)
    line(parent, "median", (scale(figures.p50_ms), y - 9), (scale(figures.p50_ms), y + 9))


def _tooltip(standing: Standing, figures: BatchFigures) -> str:
    decimals = decimals_for([figures.min_ms])
    named = {
        "min": figures.min_ms,
        "p5": figures.p5_ms,
        "p25": figures.p25_ms,
        "p50": figures.p50_ms,
        "p75": figures.p75_ms,
        "p95": figures.p95_ms,
        "p99": figures.p99_ms,
    }
    values = ", ".join(f"{name} {fixed(value, decimals)}" for name, value in named.items())
    spread = f", p50 ±{percent(figures.spread)} %" if figures.spread is not None else ""
    timed = f"{figures.runs} runs in {figures.rounds} rounds"
    return f"{standing.candidate_id} ({standing.verdict})\n{values} ms{spread}\n{timed}"
