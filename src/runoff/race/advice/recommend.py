"""Advice: the rules held against a model, a machine and its record of races. Pure: makes and measures nothing.

Figures come from the record of this machine and from nowhere else. What it has not measured says so, and why.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import msgspec

from runoff.backends import table
from runoff.environment.describe import Environment
from runoff.export.targets import PROOFS, TARGETS, Target
from runoff.models.manifest import Manifest
from runoff.race.advice.artifact import Artifact, artifact_for
from runoff.race.advice.profile import Profile
from runoff.race.advice.rules import RULES, Hardware, Rule, Sensitivity, Targets
from runoff.race.candidates import Candidate
from runoff.race.decide import decide, outside_contract
from runoff.race.fidelity import Contract
from runoff.race.rank import cost
from runoff.race.record import Entrant, Record, package_sha256
from runoff.race.wish import Objective, Wish
from runoff.types import Precision

Role: TypeAlias = Literal["ship", "where it pays", "fallback"]

OBJECTIVE: dict[Sensitivity, Objective] = {
    "latency": "latency",
    "throughput": "throughput",
    "accuracy": "latency",
    "memory": "memory",
    "size": "size",
    "cold-start": "cold-start",
}
"""What figures are compared by; for accuracy among those that keep to the level `exact`."""


_TESTED_ON: tuple[Hardware, ...] = ("intel", "amd")
"""Whose CPUs the tests of this repository run on."""


class Questions(msgspec.Struct, frozen=True):
    """The three questions of the field, answered."""

    hardware: tuple[Hardware, ...]
    sensitivity: Sensitivity
    targets: Targets

    def wish(self) -> Wish:
        """What a candidate must keep to, and what its figures are compared by."""
        contract = Contract("exact") if self.sensitivity == "accuracy" else Contract()
        return Wish(objective=OBJECTIVE[self.sensitivity], contract=contract)


class Figures(msgspec.Struct, frozen=True):
    """What this machine measured of a form.

    Attributes:
        candidate: with its threads.
        batch: that the latency is for.
        holds_for: what of it holds on the hardware that was asked for.
    """

    candidate: str
    batch: int
    p50_ms: float | None
    items_per_s: float | None
    cold_start_s: float | None
    peak_memory_bytes: int | None
    size_bytes: int
    max_rel: float | None
    metric: dict[str, float]
    holds_for: str


class Recommendation(msgspec.Struct, frozen=True):
    """A form to ship.

    Attributes:
        runtime: what runs it there.
        proven: what the tests of Runoff do with that runtime.
        why: sentences, the rule's first.
        measured: figures of this machine; None where there are none.
        unmeasured: why there are none.
    """

    hardware: Hardware
    role: Role
    runtime: str
    format: str
    precision: Precision
    candidate: str
    proven: str
    why: tuple[str, ...]
    source: str
    commands: tuple[str, ...]
    measured: Figures | None = None
    unmeasured: str | None = None


class Refusal(msgspec.Struct, frozen=True):
    """A form that a rule would ship, and why this model is not to be shipped in it."""

    hardware: Hardware
    form: str
    reason: str


class Facts(msgspec.Struct, frozen=True):
    """What advice rests on.

    Attributes:
        model: what the user calls it.
        record: of this machine, or None.
        is_installed: whether a library can be imported, by its module.
    """

    model: str
    profile: Profile
    manifest: Manifest
    environment: Environment
    record: Record | None
    is_installed: Callable[[str], bool]


def recommend(questions: Questions, facts: Facts) -> tuple[list[Recommendation], list[Refusal]]:
    """Hold the rules against the facts; what was measured on the very hardware comes before what was not.

    Returns:
        the recommendations by hardware in the order of the question, the one to ship first; and what was refused.
    """
    recommended: list[Recommendation] = []
    refused: list[Refusal] = []
    for hardware in questions.hardware:
        kept: list[tuple[float | None, bool, Recommendation]] = []
        for rule in _applicable(hardware, questions, facts.profile):
            found = _apply(rule, questions, facts)
            if isinstance(found, Refusal):
                refused.append(found)
            elif found[2].candidate not in {known[2].candidate for known in kept}:
                kept.append(found)
        if is_this_machine(hardware, facts.environment):
            kept += _measured_best(hardware, {each[2].candidate for each in kept}, questions, facts)
        recommended += _in_order(kept, questions)
    return recommended, refused


def artifacts(questions: Questions, facts: Facts) -> list[Artifact]:
    """Every form that the rules name, each once, that opens on a processor of this machine with what is installed."""
    found: dict[str, Artifact] = {}
    for hardware in questions.hardware:
        for rule in _applicable(hardware, questions, facts.profile):
            artifact = artifact_for(rule, facts.profile, facts.model, facts.is_installed)
            if isinstance(artifact, Artifact) and _unrunnable(rule, artifact, facts.environment) is None:
                found.setdefault(artifact.candidate, artifact)
    return list(found.values())


def is_this_machine(hardware: Hardware, environment: Environment) -> bool:
    """Whether this machine is of that kind."""
    model, arch = environment.cpu.model.lower(), environment.os.arch
    is_mac = environment.os.name == "Darwin"
    return {
        "nvidia": bool(environment.gpus),
        "intel": "intel" in model,
        "amd": "amd" in model,
        "arm": arch == "aarch64" and not is_mac,
        "apple": is_mac,
        "android": False,
        "browser": False,
    }[hardware]


def _applicable(hardware: Hardware, questions: Questions, profile: Profile) -> Sequence[Rule]:
    return [
        rule
        for rule in RULES
        if rule.hardware == hardware
        and questions.sensitivity in rule.sensitivity
        and questions.targets in rule.targets
        and profile.kind in (None, *rule.kinds)
    ]


def _apply(rule: Rule, questions: Questions, facts: Facts) -> tuple[float | None, bool, Recommendation] | Refusal:
    """One rule: its cost as measured or None, whether it is the form for many targets, and the recommendation."""
    artifact = artifact_for(rule, facts.profile, facts.model, facts.is_installed)
    if isinstance(artifact, str):
        return Refusal(rule.hardware, f"{rule.form} at {rule.precision}", artifact)
    target = next(target for target in TARGETS if target.id == rule.target)
    measured, lowest, reason = None, None, _unrunnable(rule, artifact, facts.environment)
    found = None if reason else _best(artifact, questions.wish(), rule.device, facts)
    if isinstance(found, str):
        return Refusal(rule.hardware, artifact.candidate, found)
    if found is not None and facts.record is not None:
        batch = facts.record.settings.batches[0]
        lowest = cost(found, questions.wish(), batch)
        measured = _figures(found, batch, rule.hardware, facts.environment)
    elif reason is None:
        reason = "no race of this machine has it"
    is_portable = rule.targets == ("many",)
    return (
        lowest if is_this_machine(rule.hardware, facts.environment) else None,
        is_portable,
        Recommendation(
            hardware=rule.hardware,
            role="fallback",
            runtime=target.title,
            format=artifact.format,
            precision=artifact.precision,
            candidate=artifact.candidate,
            proven=_proven(target, rule.hardware),
            why=(rule.why, *artifact.notes),
            source=rule.source,
            commands=artifact.commands,
            measured=measured,
            unmeasured=None if measured else f"not measured on this machine: {reason}",
        ),
    )


def _proven(target: Target, hardware: Hardware) -> str:
    """What the tests do with a runtime; that it runs is said of the CPUs that they run on, and of nothing else."""
    words = PROOFS[target.proven]
    return words if target.proven != "run" or hardware in _TESTED_ON else f"{words} on a CPU, never on this hardware"


def _measured_best(
    hardware: Hardware, named: set[str], questions: Questions, facts: Facts
) -> list[tuple[float | None, bool, Recommendation]]:
    """What the record of this machine has found best, where no rule names it."""
    if facts.record is None:
        return []
    decision = decide(facts.manifest, facts.environment, questions.wish(), facts.record)
    best = decision.chosen
    if best is None or decision.basis != "measured" or _stem(best) in named:
        return []
    entry, entrant = facts.manifest.package(best.package_id), facts.record.entrant(best.id)
    if entry is None or entrant is None:
        return []
    batch = facts.record.settings.batches[0]
    row = table.row(best.backend)
    target = next((each for each in TARGETS if (each.way, each.through) == ("backend", row.id)), None)
    found = Recommendation(
        hardware=hardware,
        role="fallback",
        runtime=row.title,
        format=entry.format,
        precision=entry.precision,
        candidate=_stem(best),
        proven=_proven(target, hardware) if target else "brought by a plug-in",
        why=(f"no rule names it: the best of {len(decision.ranking)} candidates that this machine has raced",),
        source="the record of this machine",
        commands=(f"runoff race {shlex.quote(facts.model)} --candidates {_stem(best)}",),
        measured=_figures(entrant, batch, hardware, facts.environment),
    )
    return [(cost(entrant, questions.wish(), batch), False, found)]


def _stem(candidate: Candidate) -> str:
    """A candidate's name without device and threads."""
    return candidate.id.partition("@")[0].partition("#")[0]


def _in_order(
    kept: Sequence[tuple[float | None, bool, Recommendation]],
    questions: Questions,
) -> list[Recommendation]:
    """Measured ones by their figures, then the others in the order of the rules; and the role of each."""
    special = [(lowest, each) for lowest, portable, each in kept if not portable]
    measured = sorted(((low, each) for low, each in special if low is not None), key=lambda pair: pair[0])
    ordered = [each for _, each in measured] + [each for low, each in special if low is None]
    portable = [each for _, is_portable, each in kept if is_portable]
    first: Role = "where it pays" if portable else "ship"
    named = [
        *(msgspec.structs.replace(each, role="ship") for each in portable),
        *(msgspec.structs.replace(each, role=first) for each in ordered[:1]),
        *ordered[1:],
    ]
    if len(measured) > 1:
        words = f"best by {OBJECTIVE[questions.sensitivity]} of {len(measured)} forms raced on this machine"
        best = measured[0][1].candidate
        named = [
            msgspec.structs.replace(each, why=(*each.why, words)) if each.candidate == best else each for each in named
        ]
    return named


def _unrunnable(rule: Rule, artifact: Artifact, environment: Environment) -> str | None:
    """Why a form cannot run on this machine in the way that the rule means, or None."""
    if artifact.backend is None:
        return "no backend of Runoff opens it"
    row = table.row(artifact.backend)
    if not row.runs_on(sys.platform):
        return f"{row.title} does not run on this operating system"
    if rule.device != "cpu":
        has_it = any(device.partition(":")[0] == rule.device for device in environment.devices)
        if not has_it:
            return f"it has no device {rule.device!r}"
    library = environment.libraries.get(row.library) if row.library else None
    if row.library and (library is None or not library.usable):
        install = f": {library.install}" if library and library.install else ""
        return f"{row.title} is not installed{install}"
    if artifact.extras:
        return f"what makes it is not installed: pip install 'runoff[{','.join(artifact.extras)}]'"
    return None


def _best(artifact: Artifact, wish: Wish, device: str, facts: Facts) -> Entrant | str | None:
    """The best timed entrant of a form; why it is not to be shipped; or None where the record does not know it."""
    record = facts.record
    if record is None:
        return None
    if artifact.package in record.unmade:
        return record.unmade[artifact.package]
    entry = facts.manifest.package(artifact.package)
    entrants = [
        each
        for each in record.entrants
        if _stem(each.candidate) == artifact.candidate
        and each.candidate.device.kind == device
        and entry is not None
        and package_sha256(entry) == each.package_sha256
    ]
    batch = record.settings.batches[0]
    reasons = [
        each.failure or outside_contract(each, record, facts.manifest.reference, wish.contract) for each in entrants
    ]
    timed = [
        (lowest, each)
        for each, reason in zip(entrants, reasons, strict=True)
        if reason is None and (lowest := cost(each, wish, batch)) is not None
    ]
    if timed:
        return min(timed, key=lambda pair: pair[0])[1]
    return next((reason for reason in reasons if reason), None)


def _figures(entrant: Entrant, batch: int, hardware: Hardware, environment: Environment) -> Figures:
    timing, fidelity = entrant.timing(batch), entrant.fidelity
    same = is_this_machine(hardware, environment)
    return Figures(
        candidate=entrant.candidate.id,
        batch=batch,
        p50_ms=timing.p50_ms if timing else None,
        items_per_s=max((each.items_per_s for each in entrant.timings if each.turns), default=None),
        cold_start_s=entrant.cold_start_s,
        peak_memory_bytes=entrant.peak_memory_bytes,
        size_bytes=entrant.size_bytes,
        max_rel=fidelity.max_rel if fidelity else None,
        metric=dict(fidelity.metric) if fidelity else {},
        holds_for="all of it" if same else "size; how far its outputs are off is a hint, its speed is that of this CPU",
    )
