"""The race from end to end: make candidates, check fidelity, time, decide, record.

Sequences the steps and holds the folder's lock meanwhile; each step is a module of its own. Runs no runtime in this
process.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from runoff import settings as runoff_settings
from runoff.backends import table
from runoff.environment.describe import Environment, describe_environment
from runoff.errors import RaceError
from runoff.models.folder import ModelFolder, folder_lock, read_folder, update_package
from runoff.models.staging import remove_stale, staging
from runoff.race.candidates import Candidate, list_candidates, make_candidate
from runoff.race.check import Checker
from runoff.race.contestant import Contestant
from runoff.race.decide import Decision, decide, outside_contract
from runoff.race.fidelity import Contract
from runoff.race.inputs import RaceInputs, find_inputs, golden_inputs
from runoff.race.ledger import Ledger, open_ledger
from runoff.race.make import make_packages
from runoff.race.options import Event, Listener, RaceOptions, silent
from runoff.race.quantize import quantization_notes
from runoff.race.record import Bounds, Entrant, RaceSettings, Record, records_folder
from runoff.race.rounds import Stable, Timer, batches_of, rounds_done
from runoff.race.wanted import name_batches, package_of
from runoff.types import Precision

_CONTENDER_FACTOR = 1.5
"""Beside a newcomer, those this close to the incumbent are timed again: absolute figures age."""
_MEMORY_LIMIT_SHARE = 0.9
"""The share of the memory that one candidate may use; it is stopped there before the machine is in trouble."""
_BF16 = {"amx_bf16", "avx512_bf16"}
"""With neither, what a quantised package leaves in fp32 gains nothing from a runtime's own choice of precision."""
_HEAT_MEMORY_SHARE = 0.7
"""The share of the available memory that the processes of one heat may hold together."""


@dataclass(frozen=True, slots=True)
class RaceResult:
    """A finished race: the folder with its packages, what was found, and the decision under the race's objective."""

    folder: ModelFolder
    record: Record
    decision: Decision
    environment: Environment
    notes: tuple[str, ...]


def race_folder(folder: ModelFolder, options: RaceOptions | None = None, listener: Listener = silent) -> RaceResult:
    """Race every candidate of a model folder on this machine and record the outcome in the folder.

    Args:
        folder: a writable model folder.
        options: see `RaceOptions`.
        listener: told of every step.

    Raises:
        RaceError: there is no reference to compare with, or a batch size is below 1.
        FolderBusy: another race held the folder for longer than the lock timeout.
        UnknownName: a backend or candidate that does not exist.
    """
    options = _checked(options or RaceOptions())
    with folder_lock(folder.root, lambda: listener(Event("wait", "another race holds the folder; waiting for it"))):
        environment = describe_environment()
        folder = read_folder(folder.root)
        inputs = find_inputs(folder, options)
        settings = RaceSettings(options.batches, inputs.name, inputs.samples)
        remove_stale(folder.root)
        remove_stale(records_folder(folder.root))
        options = name_batches(folder, options)
        ledger, notes = open_ledger(folder, environment, settings, fresh=options.force)
        folder, unmade = make_packages(folder, environment, options, listener)
        # What was not tried this time keeps its reason.
        known = {} if options.backends is None else ledger.record.unmade
        ledger.change(lambda record: msgspec.structs.replace(record, unmade={**known, **unmade}))
        candidates = _candidates(folder, environment, _without(options, unmade))
        bounds = Bounds(_memory_limit(environment, options), runoff_settings.worker_timeout_s())
        stable = Stable(int(environment.memory.available_bytes * _HEAT_MEMORY_SHARE))
        with staging(folder.root) as work, ExitStack() as stack:
            stack.callback(stable.close)
            race = _Race(folder, options, listener, ledger, work, bounds, stable)
            race.run(candidates, _reference_candidate(folder, environment, options), inputs)
        record = ledger.finish()
        folder = _write_fidelity(folder, record)
        notes += quantization_notes(folder)
    listener(Event("done", "recorded"))
    decision = decide(folder.manifest, environment, options.wish(), record)
    return RaceResult(folder, record, decision, environment, tuple(notes))


@dataclass(slots=True)
class _Race:
    """The steps that need processes."""

    folder: ModelFolder
    options: RaceOptions
    listener: Listener
    ledger: Ledger
    work: Path
    bounds: Bounds
    stable: Stable

    def run(self, candidates: Sequence[Candidate], reference: Candidate | None, inputs: RaceInputs) -> None:
        """Check and time what the ledger lacks.

        Args:
            candidates: those that compete.
            reference: what the others are compared with; it need not be one of them. None where it cannot run.
            inputs: what is computed.
        """
        unchecked = [candidate for candidate in candidates if self._is_unchecked(candidate)]
        if unchecked:
            self._check(unchecked, reference, inputs)
        timed = [candidate.id for candidate in candidates if self._is_untimed(candidate)]
        if not timed:
            return
        timed += self._timed_beside(timed, {candidate.id for candidate in candidates})
        timer = Timer(self.folder, self.options, inputs, self.work, self.ledger, self.listener, self.bounds, self._open)
        timer.run(timed, self.stable)

    def _check(self, unchecked: Sequence[Candidate], reference: Candidate | None, inputs: RaceInputs) -> None:
        batches = self.options.batches
        checker = Checker(self.folder, inputs, self.work, max(batches), batches[0], self.bounds)
        self._find_reference(checker, reference, is_newcomer=reference in unchecked)
        for place, candidate in enumerate(unchecked):
            if candidate == reference:
                continue
            self.listener(Event("check", candidate.id, place, len(unchecked)))
            self._settle(*checker.check(candidate))
        self.listener(Event("check", "all checked", len(unchecked), len(unchecked)))

    def _settle(self, entrant: Entrant, contestant: Contestant | None) -> None:
        if contestant is not None:
            self.stable.keep(contestant, entrant)
        self.ledger.put(entrant)

    def _find_reference(self, checker: Checker, candidate: Candidate | None, *, is_newcomer: bool) -> None:
        """Set the outputs that the others are compared with: the reference's, else the golden ones."""
        why = "its backend is not installed"
        if candidate is not None:
            self.listener(Event("check", f"{candidate.id}, the reference"))
            entrant, contestant = checker.check(candidate)
            if is_newcomer:
                self._settle(entrant, contestant)
            elif contestant is not None:
                # It was only opened to compare newcomers with: what is known of it holds.
                contestant.close()
            if entrant.failure is None:
                self._set_reference_metric(entrant)
                return
            why = entrant.failure
        golden = golden_inputs(self.folder)
        if golden is None:
            raise RaceError(
                f"the reference {self.folder.manifest.reference!r} cannot run here ({why}) and there is no golden pair",
                hint="install the reference's backend, or package the model again on a machine that has it",
            )
        checker.inputs, checker.reference = golden
        note = f"the reference cannot run here ({why}): checked against the golden pair"
        self.ledger.change(lambda record: msgspec.structs.replace(record, notes=(note,)))

    def _set_reference_metric(self, reference: Entrant) -> None:
        metric = reference.fidelity.metric if reference.fidelity else {}
        self.ledger.change(lambda record: msgspec.structs.replace(record, reference_metric=metric))

    def _open(self, entrant: Entrant) -> Contestant:
        """Open a candidate that was checked before."""
        package = self.folder.package(entrant.candidate.package_id)
        contestant = Contestant(package, entrant.candidate, self.bounds)
        try:
            contestant.open()
        except BaseException:
            contestant.close()
            raise
        return contestant

    def _is_unchecked(self, candidate: Candidate) -> bool:
        """Whether the record has no check of the candidate, or one that failed within narrower bounds than today's."""
        entrant = self.ledger.record.entrant(candidate.id)
        if entrant is None or entrant.failure is None:
            return entrant is None or entrant.fidelity is None
        within = entrant.failed_within
        return within is not None and (
            self.bounds.memory_bytes > within.memory_bytes or self.bounds.silence_s > within.silence_s
        )

    def _is_untimed(self, candidate: Candidate) -> bool:
        """Whether a candidate that is right lacks some of its rounds."""
        entrant = self.ledger.record.entrant(candidate.id)
        if entrant is None or entrant.failure is not None or entrant.retired is not None:
            return False
        batches = batches_of(self.folder.package(candidate.package_id).entry, self.options)
        return rounds_done(entrant, batches) < self.options.rounds and self._is_right(entrant)

    def _is_right(self, entrant: Entrant) -> bool:
        """Whether an entrant is within the contract of this race, or the one that a caller has without naming any."""
        record, reference = self.ledger.record, self.folder.manifest.reference
        contracts = (self.options.contract, Contract())
        return any(outside_contract(entrant, record, reference, contract) is None for contract in contracts)

    def _timed_beside(self, untimed: Sequence[str], competing: Collection[str]) -> list[str]:
        """Those that run beside candidates without all their rounds: from the start where one has none at all yet.

        Otherwise the race was interrupted, and they repeat the round that was cut short.
        """
        beside = [e for e in self._contenders() if e.candidate.id in competing and e.candidate.id not in untimed]
        known = [entrant for name in untimed if (entrant := self.ledger.record.entrant(name))]
        if not all(any(timing.turns for timing in entrant.timings) for entrant in known):
            for entrant in beside:
                self.ledger.put(msgspec.structs.replace(entrant, timings=(), retired=None))
        return [entrant.candidate.id for entrant in beside]

    def _contenders(self) -> list[Entrant]:
        """Timed entrants that are close to the best of those that run at the same precision."""
        batch = self.options.batches[0]
        p50 = {
            entrant.candidate.id: timing.p50_ms
            for entrant in self.ledger.record.entrants
            if entrant.failure is None and (timing := entrant.timing(batch))
        }
        timed = [entrant for entrant in self.ledger.record.entrants if entrant.candidate.id in p50]
        best = {
            runs_at: min(p50[entrant.candidate.id] for entrant in timed if entrant.runs_at == runs_at)
            for runs_at in {entrant.runs_at for entrant in timed}
        }
        return [e for e in timed if p50[e.candidate.id] <= best[e.runs_at] * _CONTENDER_FACTOR]


def _memory_limit(environment: Environment, options: RaceOptions) -> int:
    usable = int(environment.memory.usable_bytes * _MEMORY_LIMIT_SHARE)
    return min(usable, options.max_memory_bytes or usable)


def _checked(options: RaceOptions) -> RaceOptions:
    """The options with backends by their ids; refuses what makes no sense."""
    for name in ("samples", "rounds"):
        if getattr(options, name) < 1:
            raise RaceError(f"{name} is {getattr(options, name)}, expected a number from 1")
    if not options.batches or min(options.batches) < 1:
        raise RaceError(f"batch sizes are {list(options.batches)}, expected numbers from 1")
    if options.num_threads is not None and (not options.num_threads or min(options.num_threads) < 1):
        raise RaceError(f"thread counts are {list(options.num_threads)}, expected numbers from 1")
    if options.backends is None:
        return options
    return msgspec.structs.replace(options, backends=tuple(table.row(name).id for name in options.backends))


def _without(options: RaceOptions, unmade: Mapping[str, str]) -> RaceOptions:
    """The options without the named candidates whose package could not be made.

    Raises:
        RaceError: that leaves none of those that were named.
    """
    if options.candidates is None:
        return options
    left = tuple(name for name in options.candidates if package_of(name) not in unmade)
    if not left:
        reasons = "; ".join(f"{name} {unmade[name]}" for name in dict.fromkeys(map(package_of, options.candidates)))
        raise RaceError(f"none of the candidates that were named can be made: {reasons}")
    return msgspec.structs.replace(options, candidates=left)


def _candidates(folder: ModelFolder, environment: Environment, options: RaceOptions) -> list[Candidate]:
    """Candidates whose library is installed; the others are known to `decide` as rejected."""
    backends = options.backends
    rows = table.rows()
    usable = [
        entry
        for entry in folder.manifest.packages
        if entry.backend in rows
        and (backends is None or entry.backend in backends)
        and _is_installed(rows[entry.backend].library, environment)
        and (entry.batch == "dynamic" or entry.batch in options.batches)
    ]
    found = list_candidates(usable, _threads(environment, options), options.device, options.candidates)
    if options.candidates is None and not _BF16 & set(environment.cpu.isa):
        found = [candidate for candidate in found if not _lowers_rest(candidate, folder)]
    wanted = options.precisions
    return [candidate for candidate in found if wanted is None or _runs_at(candidate, folder) & set(wanted)]


def _runs_at(candidate: Candidate, folder: ModelFolder) -> set[Precision]:
    """What a candidate may turn out to compute in: a runtime's own choice is one of the 16-bit precisions, or fp32."""
    if _lowers_rest(candidate, folder):
        return {folder.package(candidate.package_id).entry.precision}
    if candidate.precision == "default":
        return {Precision.BF16, Precision.FP16}
    return {Precision(candidate.precision)}


def _lowers_rest(candidate: Candidate, folder: ModelFolder) -> bool:
    """Whether it is a quantised package whose other layers run at the precision that the runtime prefers."""
    own = folder.package(candidate.package_id).entry.precision
    return candidate.precision == "default" and own in (Precision.INT8, Precision.INT4)


def _reference_candidate(folder: ModelFolder, environment: Environment, options: RaceOptions) -> Candidate | None:
    """The plain candidate of the reference, whether it competes or not; None where its library is missing."""
    entry = folder.reference.entry
    row = table.rows().get(entry.backend)
    if row is None or not _is_installed(row.library, environment):
        return None
    return make_candidate(entry, row, row.variants[0], _threads(environment, options)[0], options.device)


def _threads(environment: Environment, options: RaceOptions) -> tuple[int, ...]:
    return options.num_threads or tuple(dict.fromkeys((environment.cpu.usable_cores, 1)))


def _is_installed(library: str | None, environment: Environment) -> bool:
    if library is None:
        return True
    facts = environment.libraries.get(library)
    return facts is not None and facts.version is not None and facts.problem is None


def _write_fidelity(folder: ModelFolder, record: Record) -> ModelFolder:
    """Put the figures of each package's plain candidate into the manifest."""
    for entry in folder.manifest.packages:
        plain = next(
            (e for e in record.entrants if e.candidate.package_id == entry.id and not e.candidate.variant), None
        )
        if plain is None or plain.fidelity is None or entry.id == folder.manifest.reference:
            continue
        if entry.fidelity != plain.fidelity:
            folder = update_package(folder.root, msgspec.structs.replace(entry, fidelity=plain.fidelity))
    return folder
