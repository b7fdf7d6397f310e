"""The order of the eligible candidates: by measured figures, with ties, or by the documented order.

Pure: knows entrants and the wish; why a candidate is not eligible is `decide.py`'s.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from runoff.backends import table
from runoff.race.candidates import Candidate
from runoff.race.record import BatchTiming, Entrant, relative_spread
from runoff.race.wish import Wish
from runoff.types import Precision

NOISE_FLOOR = 0.03
"""Two candidates closer than this are a tie however quiet the machine was."""
NOISE_CEILING = 0.10
"""A difference larger than this is never called noise: the race goes on instead until the spread is below it."""
_MIN_PAIRS = 3
_MIB = 2**20


class Ranked(msgspec.Struct, frozen=True):
    """An eligible candidate with the figure that it was ranked by.

    Attributes:
        figure: in the unit of the objective; None when it was not measured.
        spread: half the 95 % interval of the figure, relative; None where it was measured once.
        tied: within the noise of the best.
    """

    candidate: Candidate
    figure: float | None = None
    spread: float | None = None
    peak_memory_bytes: int | None = None
    cold_start_s: float | None = None
    runs_at: str | None = None
    tied: bool = False


def rank(entrants: Sequence[Entrant], wish: Wish, batch: int) -> tuple[Ranked, ...]:
    """Rank measured entrants: first by the ordered lists of the wish, then by cost, lower is better.

    Those of the first place in the lists that are within the noise of the best of them are a tie, which smaller
    memory settles, then a faster start, then the id.

    Args:
        entrants: eligible, and each with a cost under the objective.
        wish: its objective and its ordered lists.
        batch: the batch size that the objective `latency` looks at.
    """
    costs = {entrant.candidate.id: cost(entrant, wish, batch) or 0.0 for entrant in entrants}

    def place(entrant: Entrant) -> tuple[tuple[int, int], float, str]:
        candidate = entrant.candidate
        return preference(candidate, entrant.runs_at, wish), costs[candidate.id], candidate.id

    ordered = sorted(entrants, key=place)
    if not ordered:
        return ()
    best = ordered[0]
    tied = [
        entrant
        for entrant in ordered
        if place(entrant)[0] == place(best)[0] and _is_tie(best, entrant, costs, wish, batch)
    ]
    tied.sort(key=lambda entrant: (entrant.peak_memory_bytes or 0, entrant.cold_start_s or 0.0, entrant.candidate.id))
    rest = [entrant for entrant in ordered if entrant not in tied]
    is_tie = len(tied) > 1
    return (
        *(_ranked(entrant, wish, batch, tied=is_tie) for entrant in tied),
        *(_ranked(entrant, wish, batch, tied=False) for entrant in rest),
    )


def guess(candidates: Sequence[Candidate], wish: Wish) -> tuple[Ranked, ...]:
    """Candidates that nothing was measured of: the wish's own order, then that of the table, then fp32 first."""
    backends, precisions = list(table.rows()), [*Precision, "default"]

    def place(candidate: Candidate) -> tuple[tuple[int, int], int, int, str]:
        precision = precisions.index(candidate.precision or Precision.FP32)
        return preference(candidate, None, wish), backends.index(candidate.backend), precision, candidate.id

    return tuple(Ranked(candidate) for candidate in sorted(candidates, key=place))


def preference(candidate: Candidate, runs_at: str | None, wish: Wish) -> tuple[int, int]:
    """The place of a candidate in the ordered lists of the wish."""
    backend = wish.backends.index(candidate.backend) if candidate.backend in wish.backends else 0
    named = precision_names(candidate, runs_at)
    return backend, min((wish.precisions.index(name) for name in named if name in wish.precisions), default=0)


def precision_names(candidate: Candidate, runs_at: str | None) -> tuple[str, ...]:
    """The precisions that a wish can name a candidate by: what it ran at when raced, and `default` where it is one."""
    if candidate.precision == "default":
        return ("default",) if runs_at is None else ("default", str(runs_at))
    return (str(runs_at or candidate.precision),)


def cost(entrant: Entrant, wish: Wish, batch: int) -> float | None:
    """What the objective minimises, or None where it was not measured."""
    if wish.objective == "cold-start":
        return entrant.cold_start_s
    if wish.objective == "memory":
        return entrant.peak_memory_bytes
    if wish.objective == "size":
        return float(entrant.size_bytes)
    timing = timing_of(entrant, wish, batch)
    if timing is None:
        return None
    return timing.p50_ms if wish.objective == "latency" else 1 / timing.items_per_s


def timing_of(entrant: Entrant, wish: Wish, batch: int) -> BatchTiming | None:
    """The timing that the objective looks at: the wished batch, or for throughput the best one."""
    if wish.objective == "throughput" and wish.batch_size is None:
        timed = [timing for timing in entrant.timings if timing.turns]
        return max(timed, key=lambda timing: timing.items_per_s, default=None)
    return entrant.timing(batch)


def _is_tie(best: Entrant, other: Entrant, costs: dict[str, float], wish: Wish, batch: int) -> bool:
    """Whether two candidates are within the noise: rounds are paired, since noise hits a round as a whole."""
    ratio = costs[other.candidate.id] / (costs[best.candidate.id] or 1.0)
    if wish.objective == "size":
        return ratio <= 1
    if ratio > 1 + NOISE_CEILING:
        return False
    noise = 0.0
    a, b = best.timing(batch), other.timing(batch)
    if wish.objective == "latency" and a and b:
        medians = {turn.round: turn.median_ms for turn in a.turns}
        paired = [turn.median_ms / medians[turn.round] for turn in b.turns if turn.round in medians]
        if len(paired) >= _MIN_PAIRS:
            ratio = statistics.median(paired)
            noise = relative_spread(paired)
    return ratio <= 1 + max(NOISE_FLOOR, min(noise, NOISE_CEILING))


def _ranked(entrant: Entrant, wish: Wish, batch: int, *, tied: bool) -> Ranked:
    timing = timing_of(entrant, wish, batch)
    lowest = cost(entrant, wish, batch) or 0.0
    is_timed = wish.objective in ("latency", "throughput")
    figure = {"throughput": 1 / lowest if lowest else 0.0, "memory": lowest / _MIB, "size": lowest / _MIB}
    return Ranked(
        candidate=entrant.candidate,
        figure=figure.get(wish.objective, lowest),
        spread=timing.spread if timing and is_timed else None,
        peak_memory_bytes=entrant.peak_memory_bytes,
        cold_start_s=entrant.cold_start_s,
        runs_at=entrant.runs_at,
        tied=tied,
    )
