"""The field of a race: which candidates compete under its options, and which one is the reference.

Knows the folder, the environment and the options; opens nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from runoff.backends import table
from runoff.backends.row import BackendRow
from runoff.environment.describe import Environment
from runoff.errors import RaceError
from runoff.models.folder import ModelFolder
from runoff.race.candidates import Candidate, list_candidates, make_candidate
from runoff.race.options import RaceOptions
from runoff.race.wanted import package_of
from runoff.types import Precision

_BF16 = {"amx_bf16", "avx512_bf16"}
"""With neither, what a quantised package leaves in fp32 gains nothing from a runtime's own choice of precision."""


def checked_options(options: RaceOptions) -> RaceOptions:
    """The options with backends by their ids; refuses what makes no sense."""
    for name in ("samples", "rounds"):
        if getattr(options, name) < 1:
            raise RaceError(f"{name} is {getattr(options, name)}, expected a number from 1")
    if not options.batches or min(options.batches) < 1:
        raise RaceError(f"batch sizes are {list(options.batches)}, expected numbers from 1")
    if options.num_threads is not None and (not options.num_threads or min(options.num_threads) < 1):
        raise RaceError(f"thread counts are {list(options.num_threads)}, expected numbers from 1")
    if options.sessions is not None and options.objective != "throughput":
        raise RaceError(
            f"sessions are raced for throughput, and the objective is {options.objective}",
            hint="objective throughput, or no number of sessions",
        )
    if options.sessions is not None and (not options.sessions or min(options.sessions) < 1):
        raise RaceError(f"numbers of sessions are {list(options.sessions)}, expected numbers from 1")
    if options.backends is None:
        return options
    return msgspec.structs.replace(options, backends=tuple(table.row(name).id for name in options.backends))


def without(options: RaceOptions, unmade: Mapping[str, str]) -> RaceOptions:
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


def find_candidates(folder: ModelFolder, environment: Environment, options: RaceOptions) -> list[Candidate]:
    """Candidates whose library is installed; the others are known to `decide` as rejected."""
    rows = table.rows()
    reference = folder.manifest.reference
    usable = [
        entry
        for entry in folder.manifest.packages
        if entry.backend in rows
        and _takes_part(rows[entry.backend], options, is_reference=entry.id == reference)
        and _is_installed(rows[entry.backend].library, environment)
        and (entry.batch == "dynamic" or entry.batch in options.batches)
    ]
    found = list_candidates(usable, _threads(environment, options), options.device, options.candidates)
    if options.candidates is None and not _BF16 & set(environment.cpu.isa):
        found = [candidate for candidate in found if not _lowers_rest(candidate, folder)]
    wanted = options.precisions
    return [candidate for candidate in found if wanted is None or _runs_at(candidate, folder) & set(wanted)]


def _takes_part(row: BackendRow, options: RaceOptions, *, is_reference: bool) -> bool:
    """Whether a backend's packages are entered: it was named, or one of its packages, or it need not be."""
    if options.backends is not None:
        return row.id in options.backends
    return not row.opt_in or is_reference or options.candidates is not None


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


def reference_candidate(folder: ModelFolder, environment: Environment, options: RaceOptions) -> Candidate | None:
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
