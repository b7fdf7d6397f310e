"""Serving shapes: the leading candidates of a race for throughput with several sessions in one process.

A shape is a candidate like any other, so it is checked, timed in rounds and recorded as one. Pure: knows entrants and
the number of cores; what may run at all and what is right is settled by the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runoff.backends import table
from runoff.race.candidates import Candidate, with_sessions
from runoff.race.rank import NOISE_CEILING
from runoff.race.record import Entrant

_PER_RUNTIME = 2
"""Ways of one runtime at one precision that get shapes, and those that are within the noise of the best."""


def leading_ways(entrants: Sequence[Entrant], cores: int) -> list[Entrant]:
    """The fastest single-session entrant of each way of opening a package that several sessions may bring to the top.

    Within each precision, since a caller may ask for one: the best few of each runtime, and what is within the noise
    of the best of all. Of the others a way is out that could not reach the best even if sessions scaled without any
    loss.

    Args:
        entrants: eligible ones that were timed.
        cores: what the process may use.
    """
    single = [entrant for entrant in entrants if entrant.candidate.sessions == 1 and _can_share(entrant.candidate)]
    found: list[Entrant] = []
    for precision in dict.fromkeys(entrant.runs_at for entrant in single):
        peers = [entrant for entrant in single if entrant.runs_at == precision]
        top = max(map(best_rate, peers))
        best: dict[str, Entrant] = {}
        promise: dict[str, float] = {}
        for entrant in sorted(peers, key=best_rate, reverse=True):
            way = entrant.candidate.way
            best.setdefault(way, entrant)
            threads = entrant.candidate.num_threads or cores
            promise[way] = max(promise.get(way, 0.0), best_rate(entrant) * max(1, cores // threads))
        taken: dict[str, int] = {}
        for way, entrant in best.items():
            backend = entrant.candidate.backend
            is_close = best_rate(entrant) >= top / (1 + NOISE_CEILING)
            if is_close or (promise[way] >= top and taken.get(backend, 0) < _PER_RUNTIME):
                taken[backend] = taken.get(backend, 0) + 1
                found.append(entrant)
    return found


def shapes_of(
    candidate: Candidate, cores: int, sessions: Sequence[int] | None = None, threads: Sequence[int] | None = None
) -> list[Candidate]:
    """A candidate with several sessions in each way that the cores can be shared out.

    Args:
        candidate: one with a single session.
        cores: what the process may use.
        sessions: numbers of sessions; None means the powers of two up to the cores, and the cores.
        threads: threads of each session; None means an equal share of the cores, and 1.
    """
    counts = sessions if sessions is not None else session_counts(cores)
    shapes = [
        (count, number)
        for count in counts
        if count > 1
        for number in dict.fromkeys((max(1, cores // count), 1) if threads is None else threads)
        # An explicit number of sessions is obeyed, however few cores there are.
        if sessions is not None or count * number <= cores
    ]
    return [with_sessions(candidate, count, number) for count, number in shapes]


def session_counts(cores: int) -> tuple[int, ...]:
    """2, 4, 8, ... up to the cores, and the cores themselves."""
    return tuple(sorted({2**power for power in range(1, cores.bit_length()) if 2**power <= cores} | {cores} - {1}))


def best_rate(entrant: Entrant) -> float:
    """Rows per second at the batch size that suits an entrant best."""
    return max((timing.items_per_s for timing in entrant.timings if timing.turns), default=0.0)


def unshared(candidates: Iterable[Candidate]) -> list[str]:
    """A sentence for each runtime among the candidates whose sessions cannot run at the same time."""
    rows = table.rows()
    found = {candidate.backend: rows[candidate.backend] for candidate in candidates if candidate.backend in rows}
    return [f"{row.title} is not timed with several sessions: {row.one_run}" for row in found.values() if row.one_run]


def _can_share(candidate: Candidate) -> bool:
    row = table.rows().get(candidate.backend)
    return row is not None and row.one_run is None and candidate.device.kind == "cpu"
