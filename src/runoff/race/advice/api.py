"""`runoff.advise`: the three questions of the field answered for one model, measured where this machine can."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec

from runoff.environment.describe import describe_environment
from runoff.environment.libraries import is_importable
from runoff.errors import RunoffError, UnknownName, unknown_name
from runoff.export.find import find_folder, known_folder, writable_folder
from runoff.models.folder import ModelFolder
from runoff.race.advice.artifact import Artifact
from runoff.race.advice.profile import Profile, profile_of
from runoff.race.advice.recommend import Facts, Questions, Recommendation, Refusal, artifacts, recommend
from runoff.race.advice.rules import HARDWARE, SENSITIVITIES, TARGETS, Hardware, Sensitivity, Targets
from runoff.race.inputs import find_inputs
from runoff.race.ledger import find_record
from runoff.race.options import Listener, RaceOptions, silent
from runoff.race.record import Record
from runoff.race.run import race_folder

CHEAP_BYTES = 32 * 2**20
"""Up to this size of the reference a short race is taken unasked."""
_ROUNDS = 3


class Advice(msgspec.Struct, frozen=True):
    """What to ship, and what that rests on.

    Attributes:
        machine: the processor that figures are of.
        raced_at: when they were taken; None without any.
        recommendations: by hardware, the one to ship first.
        refused: forms that the rules would name and this model is not to be shipped in.
        notes: what was not done and why.
    """

    model: str
    questions: Questions
    profile: Profile
    machine: str
    raced_at: str | None
    recommendations: tuple[Recommendation, ...]
    refused: tuple[Refusal, ...]
    notes: tuple[str, ...] = ()


def read_questions(hardware: str | Sequence[str], sensitivity: str, targets: str) -> Questions:
    """The three answers from words.

    Raises:
        UnknownName: one of them does not exist; the message lists the known ones.
    """
    named = hardware.split(",") if isinstance(hardware, str) else list(hardware)
    kinds = [word.strip().lower() for word in named if word.strip()]
    if not kinds:
        raise UnknownName(f"no hardware was named; there is {', '.join(HARDWARE)}", hint="--hardware intel,android")
    for kind in kinds:
        if kind not in HARDWARE:
            raise unknown_name("hardware", kind, list(HARDWARE))
    if sensitivity not in SENSITIVITIES:
        raise unknown_name("sensitivity", sensitivity, list(SENSITIVITIES))
    if targets not in TARGETS:
        raise unknown_name("number of targets", targets, list(TARGETS))
    asked = tuple(cast("Hardware", kind) for kind in dict.fromkeys(kinds))
    return Questions(asked, cast("Sensitivity", sensitivity), cast("Targets", targets))


def advise(
    model: str | Path,
    *,
    hardware: str | Sequence[str],
    sensitivity: str,
    targets: str,
    measure: bool | None = None,
    listener: Listener = silent,
) -> Advice:
    """Say which forms of a model to ship for some hardware, why, and with which commands.

    Args:
        model: a model folder, a bare file, a Hugging Face folder, a hub id, a URL or a provider's reference.
        hardware: `nvidia`, `intel`, `amd`, `arm`, `apple`, `android`, `browser`; one or several.
        sensitivity: `latency`, `throughput`, `accuracy`, `memory`, `size` or `cold-start`.
        targets: `one`, `few` or `many`.
        measure: True makes and races here what can be and no record has, False never does; None does it for models of
            up to 32 MiB.
        listener: told of every step of a race.

    Raises:
        UnknownName: a word that does not exist.
        ModelNotFound, ManifestInvalid, DigestMismatch: the model is not there or damaged.
    """
    questions = read_questions(hardware, sensitivity, targets)
    folder = known_folder(find_folder(model))
    facts = _facts(folder, str(model))
    wanted = [each for each in artifacts(questions, facts) if not _is_known(each, facts.record)]
    notes: list[str] = []
    if wanted and measure is None and facts.profile.size_bytes > CHEAP_BYTES:
        notes.append(f"not raced unasked: {facts.profile.size_bytes / 2**20:.0f} MiB are much; --measure does it")
    elif wanted and measure is not False:
        folder, notes = _measure(writable_folder(folder), wanted, facts, listener)
        facts = _facts(folder, str(model))
    recommended, refused = recommend(questions, facts)
    return Advice(
        model=str(model),
        questions=questions,
        profile=facts.profile,
        machine=facts.environment.cpu.model,
        raced_at=facts.record.raced_at if facts.record else None,
        recommendations=tuple(recommended),
        refused=tuple(refused),
        notes=(*notes, *_stale(folder, facts)),
    )


def _facts(folder: ModelFolder, model: str) -> Facts:
    environment = describe_environment()
    record, _ = find_record(folder, environment)
    return Facts(model, profile_of(folder), folder.manifest, environment, record, is_importable)


def _stale(folder: ModelFolder, facts: Facts) -> list[str]:
    """Why an older record does not count."""
    return find_record(folder, facts.environment)[1]


def _is_known(artifact: Artifact, record: Record | None) -> bool:
    """Whether a record has checked a form, or says why there is none."""
    if record is None:
        return False
    own = [each for each in record.entrants if each.candidate.id.partition("@")[0] == artifact.candidate]
    return artifact.package in record.unmade or any(each.failure or each.fidelity is not None for each in own)


def _measure(
    folder: ModelFolder, wanted: Sequence[Artifact], facts: Facts, listener: Listener
) -> tuple[ModelFolder, list[str]]:
    """Make these forms and race exactly them; answers the folder and what did not go well."""
    batches = facts.record.settings.batches if facts.record else (1,)
    options = RaceOptions(batches=batches, rounds=_ROUNDS, max_rounds=_ROUNDS)
    if facts.record is not None and find_inputs(folder, options).name != facts.record.settings.inputs:
        rest = ",".join(each.candidate for each in wanted)
        return folder, [
            "the record was taken on other data, and a race on these would replace it; add the rest to it by: "
            f"runoff race {shlex.quote(facts.model)} --data DATA --candidates {rest}"
        ]
    names = tuple(each.candidate for each in wanted)
    try:
        result = race_folder(folder, msgspec.structs.replace(options, candidates=names), listener)
    except RunoffError as error:
        return folder, [f"the race failed: {error.message}"]
    unmade = result.record.unmade
    return result.folder, [f"{each.package} {unmade[each.package]}" for each in wanted if each.package in unmade]
