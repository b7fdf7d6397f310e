"""The decision: filter, then rank. A pure function of packages, environment, wish and record.

Same facts, same decision and explanation. Knows no arrays, no runtime and no disk. The rules:
1. a candidate is kept, or rejected with a reason: wish, missing library, device, batch, failure, contract;
2. with a record under this fingerprint the kept ones are ranked by the objective as measured, and those that are
   within the noise of the best are a tie, settled by smaller memory, then by faster start;
3. without one they are ranked by the documented order of the table, and the decision is marked `guessed`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from runoff.backends import table
from runoff.backends.table import BackendRow
from runoff.environment.describe import Environment
from runoff.errors import NoCandidate
from runoff.models.manifest import Manifest, PackageEntry
from runoff.race.candidates import Candidate, make_candidate, variants_of
from runoff.race.fidelity import Contract, violation
from runoff.race.record import BatchTiming, Entrant, Record, relative_spread
from runoff.types import CPU, Device, Precision

Objective: TypeAlias = Literal["latency", "throughput", "cold-start", "memory", "size"]
OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput", "cold-start", "memory", "size")
UNITS: dict[Objective, str] = {
    "latency": "ms",
    "throughput": "items/s",
    "cold-start": "s",
    "memory": "MiB",
    "size": "MiB",
}
NOISE_FLOOR = 0.03
"""Two candidates closer than this are a tie however quiet the machine was."""
NOISE_CEILING = 0.10
"""A difference larger than this is never called noise: the race goes on instead until the spread is below it."""
_MIB = 2**20


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the caller asked for; obeyed or refused.

    Attributes:
        backends, precisions: ordered: an earlier one wins over a faster later one; empty admits all.
        batch_size: rows per `run`; None leaves it at the smallest that was raced.
    """

    backends: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    device: Device = CPU
    batch_size: int | None = None
    num_threads: int | None = None
    objective: Objective = "latency"
    contract: Contract = Contract()
    max_memory_bytes: int | None = None


class Rejection(msgspec.Struct, frozen=True):
    """A candidate that was not eligible, why, and what would change that."""

    candidate_id: str
    reason: str
    hint: str | None = None


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


class Decision(msgspec.Struct, frozen=True):
    """The chosen candidate with the facts used, the figures and every rejection."""

    model: str
    wish: Wish
    fingerprint: str
    basis: Literal["measured", "guessed"]
    chosen: Candidate | None
    ranking: tuple[Ranked, ...]
    rejections: tuple[Rejection, ...]
    notes: tuple[str, ...] = ()
    raced_at: str | None = None

    def require(self) -> Candidate:
        """The chosen candidate.

        Raises:
            NoCandidate: every candidate was rejected; the message has each reason.
        """
        if self.chosen is None:
            hints = [rejection.hint for rejection in self.rejections if rejection.hint]
            raise NoCandidate(
                f"no package of {self.model!r} can be opened as wished on this machine",
                rejections={rejection.candidate_id: rejection.reason for rejection in self.rejections},
                hint=hints[0] if hints else None,
            )
        return self.chosen


def decide(manifest: Manifest, environment: Environment, wish: Wish, record: Record | None) -> Decision:
    """Choose the candidate to open.

    Args:
        manifest: the model and its packages.
        environment: this machine.
        wish: what the caller asked for.
        record: a race of this model under this environment's fingerprint, or None.
    """
    entrants = [entrant for entrant in record.entrants if _is_current(entrant, manifest)] if record else []
    fits = _Filter(manifest, environment, wish, record)
    kept: list[tuple[Candidate, Entrant | None]] = []
    rejections: list[Rejection] = []
    for candidate, entrant in _field(manifest, wish, entrants):
        rejection = fits.reject(candidate, entrant)
        if rejection:
            rejections.append(rejection)
        else:
            kept.append((candidate, entrant))
    rejections += [Rejection(name, reason) for name, reason in (record.unmade if record else {}).items()]
    notes = list(record.notes) if record else []
    measured = [(candidate, entrant) for candidate, entrant in kept if entrant is not None]
    batch = _batch(wish, record, notes)
    ranking = _rank(measured, wish, batch, notes) if measured else ()
    ranking += _guess([candidate for candidate, entrant in kept if entrant is None], wish)
    if measured and wish.backends + wish.precisions:
        # An earlier wish wins, measured or not; sorting is stable, so figures decide within one.
        ranking = tuple(sorted(ranking, key=lambda ranked: _preference(ranked.candidate, ranked.runs_at, wish)))
    basis: Literal["measured", "guessed"] = "measured" if ranking and ranking[0].figure is not None else "guessed"
    return Decision(
        model=manifest.name,
        wish=wish,
        fingerprint=environment.fingerprint,
        basis=basis,
        chosen=ranking[0].candidate if ranking else None,
        ranking=ranking,
        rejections=tuple(rejections),
        notes=tuple(notes),
        raced_at=record.raced_at if record else None,
    )


def package_sha256(entry: PackageEntry) -> str:
    """What ties a measurement to the files of a package."""
    return "+".join(file.sha256 for file in entry.files)


def _is_current(entrant: Entrant, manifest: Manifest) -> bool:
    entry = manifest.package(entrant.candidate.package_id)
    return entry is not None and package_sha256(entry) == entrant.package_sha256


def _field(manifest: Manifest, wish: Wish, entrants: Sequence[Entrant]) -> list[tuple[Candidate, Entrant | None]]:
    """Every candidate to consider: the raced ones, and those that the packages allow and no race has seen."""
    field: list[tuple[Candidate, Entrant | None]] = [(entrant.candidate, entrant) for entrant in entrants]
    raced = {
        entrant.candidate.package_id
        for entrant in entrants
        if wish.num_threads in (None, entrant.candidate.num_threads) and entrant.candidate.device == wish.device
    }
    for entry in manifest.packages:
        row = table.rows().get(entry.backend)
        if entry.id in raced:
            continue
        if row is None:
            plain = Candidate(entry.id, entry.id, entry.backend, "", entry.precision, wish.num_threads, wish.device)
            field.append((plain, None))
            continue
        for variant in variants_of(entry, row):
            # Unmeasured, only the plain way is guessed at; another one must be asked for by its precision.
            wished = variant.precision in wish.precisions and not variant.options
            if not variant.name or wished:
                field.append((make_candidate(entry, row, variant, wish.num_threads, wish.device), None))
    return field


class _Filter:
    """The reasons for which a candidate is rejected, first one first."""

    def __init__(self, manifest: Manifest, environment: Environment, wish: Wish, record: Record | None) -> None:
        self._manifest = manifest
        self._environment = environment
        self._wish = wish
        self._record = record

    def reject(self, candidate: Candidate, entrant: Entrant | None) -> Rejection | None:
        """Why the candidate is not eligible, or None."""
        entry = self._manifest.package(candidate.package_id)
        row = table.rows().get(candidate.backend)
        if entry is None or row is None:
            hint = "install the plug-in that brings it"
            return Rejection(candidate.id, f"no backend {candidate.backend!r} in this installation", hint)
        for check in (self._wished, self._installed, self._static):
            rejection = check(candidate, entry, row, entrant)
            if rejection:
                return rejection
        reason = self._measured(entrant) if entrant else self._unmeasured(entry)
        return Rejection(candidate.id, reason) if reason else None

    def _wished(
        self, candidate: Candidate, entry: PackageEntry, row: BackendRow, entrant: Entrant | None
    ) -> Rejection | None:
        wish = self._wish
        if wish.backends and row.id not in wish.backends:
            return Rejection(candidate.id, f"backend {row.id} was not asked for")
        runs_at = entrant.runs_at if entrant else None
        if wish.precisions and not {candidate.precision, runs_at} & set(wish.precisions):
            return Rejection(candidate.id, f"precision {runs_at or candidate.precision} was not asked for")
        if wish.num_threads is not None and candidate.num_threads != wish.num_threads:
            threads = "all" if candidate.num_threads is None else str(candidate.num_threads)
            return Rejection(candidate.id, f"raced with {threads} threads, {wish.num_threads} were asked for")
        return None

    def _installed(
        self, candidate: Candidate, entry: PackageEntry, row: BackendRow, entrant: Entrant | None
    ) -> Rejection | None:
        if row.library is None:
            return None
        library = self._environment.libraries.get(row.library)
        if library is None or library.version is None:
            install = library.install if library else None
            return Rejection(candidate.id, f"{row.title} is not installed", install)
        if library.problem:
            return Rejection(candidate.id, f"{row.title} {library.version} is broken: {library.problem}")
        return None

    def _static(
        self, candidate: Candidate, entry: PackageEntry, row: BackendRow, entrant: Entrant | None
    ) -> Rejection | None:
        wish = self._wish
        if wish.device != candidate.device:
            return Rejection(candidate.id, f"raced on {candidate.device}, {wish.device} was asked for")
        if wish.device.kind not in row.devices:
            return Rejection(candidate.id, f"{row.title} does not run on {wish.device.kind}")
        present = {device.partition(":")[0] for device in self._environment.devices}
        if wish.device.kind == "cuda" and wish.device.kind not in present:
            return Rejection(candidate.id, "this machine has no CUDA device")
        if wish.batch_size is not None and entry.batch not in ("dynamic", wish.batch_size):
            return Rejection(candidate.id, f"made for batch {entry.batch}, {wish.batch_size} was asked for")
        return None

    def _measured(self, entrant: Entrant | None) -> str | None:
        if entrant is None or self._record is None:
            return None
        if entrant.failure:
            return entrant.failure
        if entrant.fidelity is None:
            return "the race was interrupted before it was checked"
        limit = self._wish.max_memory_bytes
        used = entrant.peak_memory_bytes
        if limit is not None and used is not None and used > limit:
            return f"peak memory {used / _MIB:.0f} MiB is over {limit / _MIB:.0f} MiB"
        if entrant.candidate.package_id != self._manifest.reference or entrant.candidate.variant:
            runs_at = entrant.runs_at or Precision.FP32
            outside = violation(entrant.fidelity, runs_at, self._wish.contract, self._record.reference_metric)
            if outside:
                return f"outside its contract: {outside}"
        if not any(timing.turns for timing in entrant.timings):
            return "the race was interrupted before it was timed"
        return None

    def _unmeasured(self, entry: PackageEntry) -> str | None:
        if entry.fidelity is None:
            return None
        outside = violation(entry.fidelity, entry.precision, self._wish.contract, {})
        return f"outside its contract: {outside}" if outside else None


def _batch(wish: Wish, record: Record | None, notes: list[str]) -> int:
    raced = record.settings.batches if record else ()
    if wish.batch_size is None:
        return raced[0] if raced else 1
    if raced and wish.batch_size not in raced:
        nearest = min(raced, key=lambda batch: abs(batch - (wish.batch_size or 0)))
        notes.append(f"batch {wish.batch_size} was not raced: ranked at batch {nearest}")
        return nearest
    return wish.batch_size


def _rank(
    measured: Sequence[tuple[Candidate, Entrant | None]], wish: Wish, batch: int, notes: list[str]
) -> tuple[Ranked, ...]:
    """Rank by cost, lower is better; ties go to the smaller, then to the faster starting one."""
    entrants = [entrant for _, entrant in measured if entrant is not None]
    costs = {entrant.candidate.id: _cost(entrant, wish, batch) for entrant in entrants}
    entrants = [entrant for entrant in entrants if costs[entrant.candidate.id] is not None]
    if not entrants:
        return ()
    by_cost = sorted(entrants, key=lambda entrant: (costs[entrant.candidate.id] or 0.0, entrant.candidate.id))
    group = _preference(by_cost[0].candidate, by_cost[0].runs_at, wish)
    group = min((_preference(e.candidate, e.runs_at, wish) for e in by_cost), default=group)
    best = next(e for e in by_cost if _preference(e.candidate, e.runs_at, wish) == group)
    tied = [
        entrant
        for entrant in by_cost
        if _preference(entrant.candidate, entrant.runs_at, wish) == group
        and _is_tie(best, entrant, costs, wish.objective, batch)
    ]
    tied.sort(key=lambda e: (e.peak_memory_bytes or 0, e.cold_start_s or 0.0, e.candidate.id))
    if len(tied) > 1:
        names = ", ".join(entrant.candidate.id for entrant in tied)
        notes.append(f"a tie within the noise: {names}; settled by smaller memory, then faster start")
    rest = [entrant for entrant in by_cost if entrant not in tied]
    return tuple(_ranked(entrant, wish, batch, tied=len(tied) > 1 and entrant in tied) for entrant in [*tied, *rest])


def _cost(entrant: Entrant, wish: Wish, batch: int) -> float | None:
    """What the objective minimises, or None where it was not measured."""
    if wish.objective == "cold-start":
        return entrant.cold_start_s
    if wish.objective == "memory":
        return entrant.peak_memory_bytes
    if wish.objective == "size":
        return float(entrant.size_bytes)
    timing = _timing(entrant, wish, batch)
    if timing is None:
        return None
    return timing.p50_ms if wish.objective == "latency" else 1 / timing.items_per_s


def _timing(entrant: Entrant, wish: Wish, batch: int) -> BatchTiming | None:
    """The timing that the objective looks at: the wished batch, or for throughput the best one."""
    if wish.objective == "throughput" and wish.batch_size is None:
        timed = [timing for timing in entrant.timings if timing.turns]
        return max(timed, key=lambda timing: timing.items_per_s, default=None)
    return entrant.timing(batch)


def _is_tie(best: Entrant, other: Entrant, costs: dict[str, float | None], objective: Objective, batch: int) -> bool:
    """Whether two candidates are within the noise: rounds are paired, since noise hits a round as a whole."""
    ratio = (costs[other.candidate.id] or 0.0) / (costs[best.candidate.id] or 1.0)
    noise = 0.0
    a, b = best.timing(batch), other.timing(batch)
    if objective == "latency" and a and b:
        medians = {turn.round: turn.median_ms for turn in a.turns}
        paired = [turn.median_ms / medians[turn.round] for turn in b.turns if turn.round in medians]
        if len(paired) >= 3:
            ratio = statistics.median(paired)
            noise = relative_spread(paired)
    return ratio <= 1 + max(NOISE_FLOOR, min(noise, NOISE_CEILING))


def _ranked(entrant: Entrant, wish: Wish, batch: int, *, tied: bool) -> Ranked:
    timing = _timing(entrant, wish, batch)
    cost = _cost(entrant, wish, batch) or 0.0
    timed = wish.objective in ("latency", "throughput")
    figure = {"throughput": 1 / cost if cost else 0.0, "memory": cost / _MIB, "size": cost / _MIB}
    return Ranked(
        candidate=entrant.candidate,
        figure=figure.get(wish.objective, cost),
        spread=timing.spread if timing and timed else None,
        peak_memory_bytes=entrant.peak_memory_bytes,
        cold_start_s=entrant.cold_start_s,
        runs_at=entrant.runs_at,
        tied=tied,
    )


def _guess(candidates: Sequence[Candidate], wish: Wish) -> tuple[Ranked, ...]:
    """The documented order: the wish's own order first, then that of the table."""
    order = list(table.rows())
    ranked = sorted(candidates, key=lambda c: (*_preference(c, None, wish), order.index(c.backend)))
    return tuple(Ranked(candidate) for candidate in ranked)


def _preference(candidate: Candidate, runs_at: str | None, wish: Wish) -> tuple[int, int]:
    """The place of a candidate in the ordered lists of the wish."""
    backend = wish.backends.index(candidate.backend) if candidate.backend in wish.backends else 0
    places = [wish.precisions.index(p) for p in (runs_at, candidate.precision) if p in wish.precisions]
    return backend, min(places, default=0)
