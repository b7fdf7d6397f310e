"""Which layers stay in higher precision: a search for the fewest whose keeping brings a model back into its contract.

Pure: quantising and judging is a function that is handed in. Each layer is first quantised alone, which tells how much
error it makes; then the worst are kept, twice as many at each try, and the number is narrowed down by halving.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

MAX_GROUPS = 24
"""More layers than this are ranked in groups of neighbours: every rank costs a quantisation."""

BROKEN = sys.float_info.max
"""The error of a model that answers NaN; JSON has no infinity."""


class Verdict(msgspec.Struct, frozen=True):
    """How a quantised model stands.

    Attributes:
        error: what layers are ranked by; larger is worse, `BROKEN` where the model answers NaN.
        outside: why it is outside its contract, or None.
        figures: by name, for people.
    """

    error: float
    outside: str | None
    figures: dict[str, float] = {}


class Ranked(msgspec.Struct, frozen=True):
    """A layer, or neighbouring layers, and the error of the model when nothing else is quantised."""

    layers: tuple[str, ...]
    error: float


class Trial(msgspec.Struct, frozen=True):
    """One try: how many layers were kept, and how the model stood."""

    num_kept: int
    outside: str | None
    figures: dict[str, float] = {}


class SearchLog(msgspec.Struct, frozen=True):
    """What a search did.

    Attributes:
        num_layers: layers that can be quantised.
        before: the model with all of them quantised.
        after: the model with `kept` in higher precision; None when nothing within the budget was in the contract.
        kept: the layers that stay in higher precision, the most sensitive first.
        ranking: the most sensitive first.
        complete: whether the time sufficed to rank every layer.
    """

    num_layers: int
    before: Verdict
    after: Verdict | None
    kept: tuple[str, ...]
    ranking: tuple[Ranked, ...]
    trials: tuple[Trial, ...]
    seconds: float
    complete: bool = True
    method: str = "each layer quantised alone, then the worst kept"


Judge: TypeAlias = Callable[[tuple[str, ...]], Verdict]
"""Quantise with these layers kept, and judge the result."""


def search(
    layers: Sequence[str],
    judge: Judge,
    before: Verdict,
    *,
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> SearchLog:
    """Find the fewest layers to keep.

    Args:
        layers: those that can be quantised, in the order of the graph.
        judge: quantises with some of them kept, and judges.
        before: the verdict on the model with none kept.
        budget_s: seconds; ranking ends at half of it, the search at the first try after it.
        clock: seconds from anywhere.
    """
    started = clock()
    groups = _group(layers)
    ranking: list[Ranked] = []
    for group in groups:
        if clock() - started > budget_s / 2:
            break
        alone = judge(tuple(layer for layer in layers if layer not in group))
        ranking.append(Ranked(group, alone.error))
    ranking.sort(key=lambda ranked: -ranked.error)
    # What could not be ranked is kept last.
    order = [ranked.layers for ranked in ranking] + [group for group in groups if not _is_in(group, ranking)]
    trials: list[Trial] = []
    best: tuple[int, Verdict] | None = None
    low, high, step = 0, len(order), 1
    # Keeping every group would leave nothing quantised: the last one is never tried.
    while low + 1 < high and clock() - started <= budget_s:
        count = (low + high) // 2 if best else min(step, high - 1)
        kept = _first(order, count)
        verdict = judge(kept)
        trials.append(Trial(len(kept), verdict.outside, verdict.figures))
        if verdict.outside is None:
            best, high = (count, verdict), count
        else:
            low, step = count, count * 2
    return SearchLog(
        num_layers=len(layers),
        before=before,
        after=best[1] if best else None,
        kept=_first(order, best[0]) if best else (),
        ranking=tuple(ranking),
        trials=tuple(trials),
        seconds=round(clock() - started, 3),
        complete=len(ranking) == len(groups),
    )


def _group(layers: Sequence[str]) -> list[tuple[str, ...]]:
    """At most `MAX_GROUPS` runs of neighbours."""
    size = max(1, math.ceil(len(layers) / MAX_GROUPS))
    return [tuple(layers[start : start + size]) for start in range(0, len(layers), size)]


def _is_in(group: tuple[str, ...], ranking: Sequence[Ranked]) -> bool:
    return any(ranked.layers == group for ranked in ranking)


def _first(order: Sequence[tuple[str, ...]], count: int) -> tuple[str, ...]:
    return tuple(layer for group in order[:count] for layer in group)
