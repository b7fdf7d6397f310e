"""The decision: filter, then rank. A pure function of packages, environment, wish and record.

Same facts, same decision and explanation. Knows no arrays, no runtime and no disk. The rules:
1. a candidate is kept, or rejected with a reason: wish, missing library, device, batch, what it was built for, failure,
   contract;
2. with a record under this fingerprint the kept ones are ranked by the objective as measured, and those that are
   within the noise of the best are a tie, settled by smaller memory, then by faster start;
3. without one they are ranked by the documented order of the table, and the decision is marked `guessed`.
Candidates with several sessions in one process stand for throughput only: one run of them is no faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from runoff.backends import table
from runoff.backends.row import BackendRow
from runoff.environment.describe import Environment
from runoff.errors import NoCandidate
from runoff.models.dimensions import fixed_sizes
from runoff.models.manifest import Manifest, PackageEntry
from runoff.race.candidates import Candidate, make_candidate, variants_of
from runoff.race.fidelity import Contract, violation
from runoff.race.rank import NOISE_FLOOR as NOISE_FLOOR
from runoff.race.rank import Ranked as Ranked
from runoff.race.rank import cost, guess, precision_names, preference, rank, timing_of
from runoff.race.record import Entrant, Record, package_sha256
from runoff.race.serving import Serving, serving_of
from runoff.race.shapes import unshared
from runoff.race.usable import Why, not_installed, unfit
from runoff.race.wish import OBJECTIVES as OBJECTIVES
from runoff.race.wish import UNITS as UNITS
from runoff.race.wish import Objective as Objective
from runoff.race.wish import Wish as Wish
from runoff.types import Precision

_MIB = 2**20
_CONTRACT_HINT = "only a wider contract admits it"


class Rejection(msgspec.Struct, frozen=True):
    """A candidate that was not eligible, why, and what would change that."""

    candidate_id: str
    reason: str
    hint: str | None = None


class Decision(msgspec.Struct, frozen=True):
    """The chosen candidate with the facts used, the figures and every rejection.

    Attributes:
        serving: what to serve the chosen candidate with; None unless throughput was measured.
    """

    model: str
    wish: Wish
    fingerprint: str
    basis: Literal["measured", "guessed"]
    chosen: Candidate | None
    ranking: tuple[Ranked, ...]
    rejections: tuple[Rejection, ...]
    notes: tuple[str, ...] = ()
    raced_at: str | None = None
    serving: Serving | None = None

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
    entrants = [entrant for entrant in record.entrants if _counts(entrant, manifest, wish)] if record else []
    notes = list(record.notes) if record else []
    batch = _batch(wish, record, notes)
    fits = _Filter(manifest, environment, wish, record, batch)
    measured: list[Entrant] = []
    unmeasured: list[Candidate] = []
    rejections: list[Rejection] = []
    for candidate, entrant in _field(manifest, wish, entrants):
        rejection = fits.reject(candidate, entrant)
        if rejection:
            rejections.append(rejection)
        elif entrant is None:
            unmeasured.append(candidate)
        else:
            measured.append(entrant)
    present = {entry.id for entry in manifest.packages}
    unmade = record.unmade if record else {}
    rejections += [Rejection(name, reason) for name, reason in unmade.items() if name not in present]
    ranking = rank(measured, wish, batch) + guess(unmeasured, wish)
    # An earlier wish wins, measured or not; sorting is stable, so figures decide within one.
    ranking = tuple(sorted(ranking, key=lambda ranked: preference(ranked.candidate, ranked.runs_at, wish)))
    tied = [ranked.candidate.id for ranked in ranking if ranked.tied]
    if tied:
        kind = "a tie" if wish.objective == "size" else "a tie within the noise"
        notes.append(f"{kind}: {', '.join(tied)}; settled by smaller memory, then faster start")
    if any(entrant.candidate.sessions > 1 for entrant in entrants):
        notes += unshared(entrant.candidate for entrant in measured)
    return Decision(
        model=manifest.name,
        wish=wish,
        fingerprint=environment.fingerprint,
        basis="measured" if ranking and ranking[0].figure is not None else "guessed",
        chosen=ranking[0].candidate if ranking else None,
        ranking=ranking,
        rejections=tuple(rejections),
        notes=tuple(notes),
        raced_at=record.raced_at if record else None,
        serving=_serving(ranking, measured, wish, batch),
    )


def outside_contract(entrant: Entrant, record: Record, reference: str, contract: Contract) -> str | None:
    """Why an entrant is outside a contract, or None when it is within it or is the reference as it stands.

    Args:
        entrant: one that was checked.
        record: the race that it is from.
        reference: the package id of the reference.
        contract: what it must keep to.
    """
    if entrant.fidelity is None or (entrant.candidate.package_id == reference and not entrant.candidate.variant):
        return None
    runs_at = entrant.runs_at or Precision.FP32
    outside = violation(entrant.fidelity, runs_at, contract, record.reference_metric)
    return f"outside its contract: {outside}" if outside else None


def _counts(entrant: Entrant, manifest: Manifest, wish: Wish) -> bool:
    """Whether an entrant's figures are of the files that are there, and of a kind that the objective looks at."""
    entry = manifest.package(entrant.candidate.package_id)
    is_current = entry is not None and package_sha256(entry) == entrant.package_sha256
    return is_current and (entrant.candidate.sessions == 1 or wish.objective == "throughput")


def _serving(ranking: Sequence[Ranked], measured: Sequence[Entrant], wish: Wish, batch: int) -> Serving | None:
    if wish.objective != "throughput" or not ranking or ranking[0].figure is None:
        return None
    entrant = next(entrant for entrant in measured if entrant.candidate == ranking[0].candidate)
    timing = timing_of(entrant, wish, batch)
    return None if timing is None else serving_of(entrant, timing)


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

    def __init__(
        self, manifest: Manifest, environment: Environment, wish: Wish, record: Record | None, batch: int
    ) -> None:
        self._manifest = manifest
        self._environment = environment
        self._wish = wish
        self._record = record
        self._batch = batch

    def reject(self, candidate: Candidate, entrant: Entrant | None) -> Rejection | None:
        """Why the candidate is not eligible, or None."""
        entry = self._manifest.package(candidate.package_id)
        row = table.rows().get(candidate.backend)
        if entry is None or row is None:
            hint = "install the plug-in that brings it"
            return Rejection(candidate.id, f"no backend {candidate.backend!r} in this installation", hint)
        found = (
            self._wished(candidate, row, entrant)
            or not_installed(row, self._environment)
            or self._static(candidate, entry, row)
            or unfit(entry, row, self._environment, self._manifest)
            or (self._measured(entrant, self._record) if entrant and self._record else self._unmeasured(entry))
        )
        return Rejection(candidate.id, *found) if found else None

    def _wished(self, candidate: Candidate, row: BackendRow, entrant: Entrant | None) -> Why | None:
        wish = self._wish
        if wish.backends and row.id not in wish.backends:
            return f"backend {row.id} was not asked for", None
        names = precision_names(candidate, entrant.runs_at if entrant else None)
        if wish.precisions and not set(names) & set(wish.precisions):
            return f"precision {names[-1]} was not asked for", None
        if wish.num_threads not in (None, candidate.num_threads):
            threads = f"{candidate.num_threads} thread" + ("" if candidate.num_threads == 1 else "s")
            hint = f"runoff race --threads {wish.num_threads}"
            return f"raced with {threads}, {wish.num_threads} asked for", hint
        return None

    def _static(self, candidate: Candidate, entry: PackageEntry, row: BackendRow) -> Why | None:
        wish = self._wish
        if wish.device.kind not in row.devices:
            return f"{row.title} does not run on {wish.device.kind}", f"it runs on {', '.join(row.devices)}"
        if wish.device.kind == "cuda" and not self._environment.has_device(wish.device):
            which = "CUDA device" if wish.device.index is None else f"device {wish.device}"
            return f"this machine has no {which}", f"it has {', '.join(self._environment.devices)}"
        if wish.device != candidate.device:
            hint = f"runoff race --device {wish.device}"
            return f"raced on {candidate.device}, {wish.device} was asked for", hint
        return self._shaped(entry, row)

    def _shaped(self, entry: PackageEntry, row: BackendRow) -> Why | None:
        """A package that fixes a dimension which the model leaves open must be of the size that is asked for."""
        wish = self._wish
        if wish.batch_size is not None and entry.batch not in ("dynamic", wish.batch_size):
            return f"made for batch {entry.batch}, {wish.batch_size} was asked for", None
        reference = self._manifest.package(self._manifest.reference)
        takes_any = reference is not None and reference.batch == "dynamic"
        # For throughput each candidate is taken at the batch size that suits it best.
        one_decides = wish.batch_size is None and wish.objective != "throughput"
        if takes_any and one_decides and entry.batch not in ("dynamic", self._batch):
            return f"made for batch {entry.batch}, batch {self._batch} decides", f"ask for batch_size={entry.batch}"
        sizes = fixed_sizes(entry)
        if sizes and row.id not in wish.backends:
            only = ", ".join(f"{name} {size}" for name, size in sizes.items())
            return f"takes {only} only, the model takes any", f"ask for backend={row.id!r} if that is all you need"
        return None

    def _measured(self, entrant: Entrant, record: Record) -> Why | None:
        if entrant.failure:
            return entrant.failure, entrant.hint
        if entrant.fidelity is None:
            return "the race was interrupted before it was checked", "runoff race"
        limit = self._wish.max_memory_bytes
        used = entrant.peak_memory_bytes
        if limit is not None and used is not None and used > limit:
            return f"peak memory {used / _MIB:.0f} MiB is over {limit / _MIB:.0f} MiB", "raise the limit"
        outside = outside_contract(entrant, record, self._manifest.reference, self._wish.contract)
        if outside:
            return outside, _CONTRACT_HINT
        if cost(entrant, self._wish, self._batch) is not None:
            return None
        if any(timing.turns for timing in entrant.timings):
            return f"was not timed at batch {self._batch}", f"runoff race --batch {self._batch}"
        return "was checked but not timed", "runoff race"

    def _unmeasured(self, entry: PackageEntry) -> Why | None:
        if entry.fidelity is None:
            return None
        outside = violation(entry.fidelity, entry.precision, self._wish.contract, {})
        return (f"outside its contract: {outside}", _CONTRACT_HINT) if outside else None


def _batch(wish: Wish, record: Record | None, notes: list[str]) -> int:
    """The batch size whose figures count."""
    raced = record.settings.batches if record else ()
    if wish.batch_size is None:
        return raced[0] if raced else 1
    if raced and wish.batch_size not in raced:
        nearest = min(raced, key=lambda batch: abs(batch - (wish.batch_size or 0)))
        notes.append(f"batch {wish.batch_size} was not raced: ranked at batch {nearest}")
        return nearest
    return wish.batch_size
