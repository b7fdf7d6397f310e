"""What to serve with: sessions, threads of each and batch size of the winner of a race for throughput, with figures.

Pure: reads an entrant's timings; knows no server.
"""

from __future__ import annotations

import msgspec

from runoff.race.record import BatchTiming, Entrant

_WHOLE = 100
"""From here on a rate is shown without decimals."""


class Serving(msgspec.Struct, frozen=True):
    """How a server best runs the chosen candidate, as measured with that many callers at the same time.

    Attributes:
        sessions: how many to open in one process, each for a thread of its own.
        threads_per_session: see `SessionOptions.num_threads`.
        batch: rows of one run.
        items_per_s: rows per second of all sessions together.
        p50_ms, p99_ms: the latency of one run meanwhile.
    """

    candidate_id: str
    sessions: int
    threads_per_session: int | None
    batch: int
    items_per_s: float
    p50_ms: float
    p99_ms: float

    def __str__(self) -> str:
        sessions = f"{self.sessions} session" + ("" if self.sessions == 1 else "s")
        rate = f"{self.items_per_s:,.0f}" if self.items_per_s >= _WHOLE else f"{self.items_per_s:.3g}"
        return f"{sessions} x {self._threads()}, batch {self.batch}: {rate} items/s"

    def _threads(self) -> str:
        if self.threads_per_session is None:
            return "the usual threads"
        return f"{self.threads_per_session} thread" + ("" if self.threads_per_session == 1 else "s")


def serving_of(entrant: Entrant, timing: BatchTiming) -> Serving:
    """The shape of an entrant with the figures of one of its timings."""
    candidate = entrant.candidate
    return Serving(
        candidate_id=candidate.id,
        sessions=candidate.sessions,
        threads_per_session=candidate.num_threads,
        batch=timing.batch,
        items_per_s=timing.items_per_s,
        p50_ms=timing.p50_ms,
        p99_ms=timing.percentile_ms(99),
    )
