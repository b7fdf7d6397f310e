"""How every candidate stands after the race: verdict, reason and figures, for whoever shows them.

Joins the decision with the record. Knows nothing of how it is shown, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import msgspec

from runoff.models.manifest import Fidelity
from runoff.race.candidates import Candidate
from runoff.race.decide import Decision
from runoff.race.rank import Ranked
from runoff.race.record import BatchTiming, Record
from runoff.race.run import RaceResult
from runoff.types import Precision

Verdict: TypeAlias = Literal["won", "tie", "eligible", "guessed", "unmeasured", "rejected"]
"""`guessed`: chosen without a figure; `unmeasured`: it could be opened, but no race has a figure for it."""


class BatchFigures(msgspec.Struct, frozen=True):
    """What was timed at one batch size.

    Attributes:
        p50_ms: the median of the medians of the rounds; the other percentiles are over the samples of all rounds.
        spread: half the 95 % interval of `p50_ms`, with several sessions of `items_per_s`; None after a single round.
        runs: timed runs in all rounds.
        items_per_s: rows per second, of all sessions together.
    """

    batch: int
    p50_ms: float
    spread: float | None
    min_ms: float
    p5_ms: float
    p25_ms: float
    p75_ms: float
    p95_ms: float
    p99_ms: float
    items_per_s: float
    rounds: int
    runs: int


class Standing(msgspec.Struct, frozen=True):
    """One candidate after the race; a package that could not be made stands here by its package id.

    Attributes:
        number: its line in every table, from 1; the ranking comes first.
        reason: why it was rejected or has no figure; None otherwise.
        metric: the task metric on labelled data, by name, as fractions.
        metric_change: the same minus the reference's.
        facts: what its session said of itself.
    """

    number: int
    candidate_id: str
    verdict: Verdict
    reason: str | None = None
    hint: str | None = None
    candidate: Candidate | None = None
    runs_at: Precision | None = None
    batches: tuple[BatchFigures, ...] = ()
    cold_start_s: float | None = None
    load_s: float | None = None
    peak_memory_bytes: int | None = None
    size_bytes: int | None = None
    fidelity: Fidelity | None = None
    metric: dict[str, float] = {}
    metric_change: dict[str, float] = {}
    retired: str | None = None
    facts: dict[str, Any] = {}

    def at(self, batch: int) -> BatchFigures | None:
        """The figures at a batch size, or None."""
        return next((figures for figures in self.batches if figures.batch == batch), None)


def standings(result: RaceResult) -> tuple[Standing, ...]:
    """Every candidate and every package that could not be made: the ranking, then those that are not in it.

    The rejected ones that were timed come before those that failed, faster ones first.
    """
    unnumbered = [*_ranked(result.decision, result.record), *_unranked(result)]
    return tuple(msgspec.structs.replace(found, number=number) for number, found in enumerate(unnumbered, 1))


def decisive_batch(result: RaceResult) -> int:
    """The batch size that the latency of the decision is about."""
    batches = result.record.settings.batches
    wished = result.decision.wish.batch_size
    return wished if wished in batches else batches[0]


def all_notes(result: RaceResult) -> tuple[str, ...]:
    """What the race and the decision remarked, each once."""
    return tuple(dict.fromkeys((*result.notes, *result.decision.notes)))


def _ranked(decision: Decision, record: Record) -> Iterator[Standing]:
    for place, ranked in enumerate(decision.ranking):
        found = _standing(ranked.candidate.id, _verdict(ranked, first=place == 0), record)
        if ranked.figure is None:
            found = msgspec.structs.replace(found, reason="no race has measured it")
        yield msgspec.structs.replace(found, candidate=ranked.candidate)


def _verdict(ranked: Ranked, *, first: bool) -> Verdict:
    if ranked.figure is None:
        return "guessed" if first else "unmeasured"
    if first:
        return "won"
    return "tie" if ranked.tied else "eligible"


def _unranked(result: RaceResult) -> list[Standing]:
    decision, record = result.decision, result.record
    known = {ranked.candidate.id for ranked in decision.ranking}
    found = []
    for rejection in decision.rejections:
        known.add(rejection.candidate_id)
        standing = _standing(rejection.candidate_id, "rejected", record)
        found.append(msgspec.structs.replace(standing, reason=rejection.reason, hint=rejection.hint))
    for entrant in record.entrants:
        # The decision looks past figures of files that are no longer the package's; a reader wonders where they are.
        # Those with several sessions are looked past too, where the objective is not throughput.
        stands = entrant.candidate.sessions == 1 or decision.wish.objective == "throughput"
        if entrant.candidate.id not in known and stands:
            standing = _standing(entrant.candidate.id, "unmeasured", record)
            reason = "its package was changed or removed after it was measured"
            found.append(msgspec.structs.replace(standing, reason=reason))
    batch = decisive_batch(result)
    return sorted(found, key=lambda standing: _speed(standing, batch))


def _speed(standing: Standing, batch: int) -> tuple[bool, float]:
    timed = standing.at(batch)
    return (False, timed.p50_ms) if timed else (True, 0.0)


def _standing(candidate_id: str, verdict: Verdict, record: Record) -> Standing:
    entrant = record.entrant(candidate_id)
    if entrant is None:
        return Standing(0, candidate_id, verdict)
    metric = entrant.fidelity.metric if entrant.fidelity else {}
    reference = record.reference_metric
    return Standing(
        number=0,
        candidate_id=candidate_id,
        verdict=verdict,
        candidate=entrant.candidate,
        runs_at=entrant.runs_at,
        batches=tuple(_figures(timing) for timing in entrant.timings if _has_samples(timing)),
        cold_start_s=entrant.cold_start_s,
        load_s=entrant.load_s,
        peak_memory_bytes=entrant.peak_memory_bytes,
        size_bytes=entrant.size_bytes,
        fidelity=entrant.fidelity,
        metric=metric,
        metric_change={name: value - reference[name] for name, value in metric.items() if name in reference},
        retired=entrant.retired,
        facts=entrant.facts,
    )


def _has_samples(timing: BatchTiming) -> bool:
    return any(turn.samples_ms for turn in timing.turns)


def _figures(timing: BatchTiming) -> BatchFigures:
    return BatchFigures(
        batch=timing.batch,
        p50_ms=timing.p50_ms,
        spread=timing.spread if len(timing.turns) > 1 else None,
        min_ms=timing.percentile_ms(0),
        p5_ms=timing.percentile_ms(5),
        p25_ms=timing.percentile_ms(25),
        p75_ms=timing.percentile_ms(75),
        p95_ms=timing.percentile_ms(95),
        p99_ms=timing.percentile_ms(99),
        items_per_s=timing.items_per_s,
        rounds=len(timing.turns),
        runs=sum(turn.num_runs for turn in timing.turns),
    )


def plain_reference(result: RaceResult) -> Ranked | None:
    """The best ranked plain candidate of the reference; None when none of them has a figure."""
    reference = result.folder.manifest.reference
    plain = (r for r in result.decision.ranking if r.candidate.package_id == reference and not r.candidate.variant)
    return next((ranked for ranked in plain if ranked.figure is not None), None)
