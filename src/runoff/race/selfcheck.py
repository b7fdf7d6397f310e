"""The self-check: a package answers the model's golden pair where it is opened, and is refused where it fails.

Knows the golden pair, the contract and the worker of one candidate; times nothing and writes nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from runoff import settings
from runoff.backends import table
from runoff.backends.protocol import Session
from runoff.child import RemoteError
from runoff.environment.describe import Environment
from runoff.errors import ChildFailed, InputError, ModelError, RaceError, SelfCheckFailed
from runoff.models.arrays import Array
from runoff.models.folder import ModelFolder, Package
from runoff.models.manifest import Fidelity, PackageEntry
from runoff.race.candidates import make_candidate, variants_of
from runoff.race.check import Checker, runs_at
from runoff.race.contestant import Contestant
from runoff.race.fidelity import Contract, Limits, compare_outputs, limits_of
from runoff.race.inputs import RaceInputs, golden_inputs
from runoff.race.record import Bounds
from runoff.race.usable import not_installed
from runoff.types import CPU, Device, Precision

_RECORDED_MARGIN = 1.5
"""How much worse than recorded a package may be that its labels admitted: other rows, the same package."""
_MEMORY_SHARE = 0.9
_HINT = "'runoff verify MODEL --run' tells which packages are right here; 'runoff export' makes this one again"

Status = Literal["ok", "refused", "cannot run here"]


class OutputReplay(msgspec.Struct, frozen=True):
    """How far one output is from the golden one, what it was held to, and why it is outside of that, or None."""

    output: str
    max_abs: float
    max_rel: float
    centred_cosine: float
    max_rel_limit: float
    centred_cosine_limit: float
    problem: str | None = None


class Replay(msgspec.Struct, frozen=True):
    """What a replay of the golden pair found.

    Attributes:
        runs_at: the precision that the session says it runs at; None where it did not run.
        reason: why it was refused or cannot run here.
    """

    package_id: str
    backend: str
    status: Status
    runs_at: Precision | None = None
    reason: str | None = None
    hint: str | None = None
    outputs: tuple[OutputReplay, ...] = ()

    def __str__(self) -> str:
        if self.worst is None or self.reason:
            return f"{self.package_id} {self.status}: {self.reason}"
        within = f"relative error {self.worst.max_rel:.2g} within {self.worst.max_rel_limit:.2g}"
        return f"{self.package_id} answers the golden pair here, {within}"

    @property
    def worst(self) -> OutputReplay | None:
        """The output that is furthest from the golden one in units of its limit."""
        return max(self.outputs, key=lambda found: found.max_rel / (found.max_rel_limit or 1.0), default=None)


def require_golden(folder: ModelFolder) -> tuple[RaceInputs, dict[str, Array]]:
    """The golden inputs and outputs of a model.

    Raises:
        ModelError: it has none.
        DigestMismatch, ModelNotFound: a file of it is damaged or missing.
    """
    golden = golden_inputs(folder)
    if golden is None:
        raise ModelError(
            f"{folder.manifest.name!r} has no golden pair, so that nothing tells whether it is right here",
            hint="package it again with runoff.package(module, inputs, folder), which keeps example inputs and outputs",
        )
    return golden


def replay_session(folder: ModelFolder, package: Package, session: Session, contract: Contract | None = None) -> Replay:
    """Let a session answer the golden pair.

    Args:
        folder: the model.
        package: what the session was opened from.
        session: one that takes any number of rows; see `with_any_batch`.
        contract: None holds the answers to the level of the precision.

    Raises:
        ModelError: there is no golden pair.
        SelfCheckFailed: the answers are outside the contract, or the golden inputs do not fit the package.
        RuntimeRunError: the runtime failed.
    """
    inputs, expected = require_golden(folder)
    try:
        outputs = session.run(inputs.arrays)
    except InputError as error:
        raise SelfCheckFailed(
            f"{package.id!r} takes other sizes than the golden pair has, so it cannot be checked: {error.message}",
            figures=[],
            hint="choose a package that takes any size, with backend= or precision=",
        ) from error
    found = _judge(package.entry, runs_at(session.facts, package), expected, outputs, contract or Contract())
    if found.status != "ok":
        raise refusal(found)
    return found


def refusal(found: Replay) -> SelfCheckFailed:
    """A replay that was refused as an error."""
    return SelfCheckFailed(
        f"package {found.package_id!r} does not answer its golden pair as the reference did: {found.reason}",
        figures=[msgspec.to_builtins(output) for output in found.outputs],
        hint=found.hint or _HINT,
    )


def replay_packages(
    folder: ModelFolder,
    environment: Environment,
    packages: Sequence[Package],
    contract: Contract | None = None,
) -> list[Replay]:
    """Let packages answer the golden pair, each in a process of its own, in the plain way of its backend.

    Raises:
        ModelError: there is no golden pair.
    """
    inputs, expected = require_golden(folder)
    contract = contract or Contract()
    memory_bytes = int(environment.memory.usable_bytes * _MEMORY_SHARE)
    bounds = Bounds(memory_bytes, settings.worker_timeout_s())
    with tempfile.TemporaryDirectory(prefix="runoff-") as work:
        checker = Checker(folder, inputs, Path(work), max(inputs.samples, 1), 1, bounds, expected)
        return [_replay(checker, environment, package, contract) for package in packages]


def _replay(checker: Checker, environment: Environment, package: Package, contract: Contract) -> Replay:
    entry = package.entry
    row = table.rows().get(entry.backend)
    if row is None:
        reason = f"no backend {entry.backend!r} in this installation"
        return Replay(entry.id, entry.backend, "cannot run here", reason=reason, hint="install the plug-in")
    absent = not_installed(row, environment)
    if absent is not None:
        return Replay(entry.id, entry.backend, "cannot run here", reason=absent[0], hint=absent[1])
    device = CPU if "cpu" in row.devices else Device(row.devices[0])
    candidate = make_candidate(entry, row, variants_of(entry, row)[0], device=device)
    try:
        package.verify()
    except ModelError as error:
        return Replay(entry.id, entry.backend, "refused", reason=error.message, hint=error.hint)
    contestant = Contestant(package, candidate, checker.bounds)
    try:
        _, facts = contestant.open()
        outputs = checker.outputs(package, contestant)
    except (ChildFailed, RemoteError) as error:
        reason = " ".join(error.message.split())[:500]
        return Replay(entry.id, entry.backend, "cannot run here", reason=reason, hint=error.hint)
    finally:
        contestant.close()
    return _judge(entry, runs_at(facts, package), checker.reference or {}, outputs, contract)


def _judge(
    entry: PackageEntry,
    precision: Precision,
    expected: Mapping[str, Array],
    outputs: Mapping[str, Array],
    contract: Contract,
) -> Replay:
    """Hold answers against the golden ones. Top-1 agreement is not asked for: a golden pair has too few rows."""
    limits = _limits(entry.fidelity, precision, contract)
    try:
        figures = compare_outputs(dict(expected), dict(outputs))
    except RaceError as error:
        return Replay(entry.id, entry.backend, "refused", precision, error.message, _HINT)
    found = tuple(
        OutputReplay(
            name,
            each.max_abs,
            each.max_rel,
            each.centred_cosine,
            limits.max_rel,
            limits.centred_cosine,
            _problem(name, each.max_rel, each.centred_cosine, limits),
        )
        for name, each in figures.items()
    )
    reason = "; ".join(output.problem for output in found if output.problem) or None
    status: Status = "refused" if reason else "ok"
    return Replay(entry.id, entry.backend, status, precision, reason, _HINT if reason else None, found)


def _problem(name: str, max_rel: float, centred_cosine: float, limits: Limits) -> str | None:
    if not max_rel <= limits.max_rel:
        return f"output {name!r} has a relative error of {max_rel:.2g}, over {limits.max_rel:.2g}"
    if not centred_cosine >= limits.centred_cosine:
        return f"output {name!r} has a centred cosine of {centred_cosine:.5f}, under {limits.centred_cosine:.5g}"
    return None


def _limits(recorded: Fidelity | None, precision: Precision, contract: Contract) -> Limits:
    """The limits of the contract; without an explicit one, those of a package that its labels admitted are wider.

    Such a package was let in by its task metric with errors beyond the level of its precision, and the manifest holds
    them: it is held to these figures, since the golden pair has no labels.
    """
    limits = limits_of(precision, contract)
    if recorded is None or not recorded.metric or contract != Contract() or precision is Precision.FP32:
        return limits
    return Limits(
        max_rel=max(limits.max_rel, recorded.max_rel * _RECORDED_MARGIN),
        centred_cosine=min(limits.centred_cosine, 1 - (1 - recorded.centred_cosine) * _RECORDED_MARGIN),
        top1=0.0,
    )
