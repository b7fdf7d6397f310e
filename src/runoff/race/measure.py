"""What a quantised candidate costs and gains: size, speed beside its source in turns, fidelity by output, metric.

A short measurement with the race's own contestants. Knows no form and decides nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec

from runoff import settings
from runoff.environment.describe import Environment
from runoff.export.quantize import read_log
from runoff.export.sensitivity import SearchLog
from runoff.models.arrays import Arrays, read_npz
from runoff.models.folder import ModelFolder
from runoff.models.staging import staging
from runoff.race.candidates import Candidate
from runoff.race.contestant import Contestant
from runoff.race.fidelity import Contract, OutputFigures, compare_outputs, violation
from runoff.race.inputs import RaceInputs, write_batch, write_padded
from runoff.race.record import Bounds
from runoff.race.timing import TurnPlan
from runoff.race.yardstick import Yardstick
from runoff.types import Precision

_TURNS = 5
_TURN = TurnPlan(min_runs=5, seconds=0.15)
_WARMUP_S = 0.5
_MEMORY_SHARE = 0.9
_ROWS = 16


class Quantized(msgspec.Struct, frozen=True):
    """What a quantised candidate costs and gains beside the one that it came from, timed in turns at batch 1.

    Attributes:
        source_id: the candidate at fp32 of the same backend.
        outputs: fidelity to the reference by output.
        metric: the task metric on the judged rows, by name, as fractions.
        source_metric: the same of the reference.
        outside: why it is outside the contract, or None.
        kept: layers that stayed in higher precision.
        log: how they were found, where a search was needed.
    """

    candidate_id: str
    package_id: str
    source_id: str
    precision: Precision
    size_bytes: int
    source_bytes: int
    p50_ms: float
    source_p50_ms: float
    outputs: dict[str, OutputFigures]
    metric: dict[str, float]
    source_metric: dict[str, float]
    judged: str
    num_judged: int
    outside: str | None = None
    calibration: str | None = None
    kept: tuple[str, ...] = ()
    log: SearchLog | None = None


def measure(
    folder: ModelFolder,
    pairs: Sequence[tuple[Candidate, Candidate]],
    yardstick: Yardstick,
    contract: Contract,
    environment: Environment,
) -> list[Quantized]:
    """Time candidates beside those that they came from, in turns, and hold their answers against the yardstick.

    Args:
        folder: the model.
        pairs: a candidate, and the one at fp32 of the same backend.
        yardstick: what is right.
        contract: what they must keep to.
        environment: this machine.

    Raises:
        ChildFailed, RemoteError: a candidate crashed, hung, or its runtime refused.
        RaceError: outputs cannot be compared.
    """
    calibration = yardstick.calibration
    inputs = RaceInputs(dict(calibration.judged.arrays), batched=calibration.batched)
    bounds = Bounds(int(environment.memory.usable_bytes * _MEMORY_SHARE), settings.worker_timeout_s())
    unique = {candidate.id: candidate for pair in pairs for candidate in pair}
    with staging(folder.root) as work:
        opened: dict[str, Contestant] = {}
        try:
            for name, candidate in unique.items():
                opened[name] = Contestant(folder.package(candidate.package_id), candidate, bounds)
                opened[name].open()
            answers = {name: _answers(folder, contestant, inputs, work) for name, contestant in opened.items()}
            p50_ms = _times(folder, opened, inputs, work)
        finally:
            for contestant in opened.values():
                contestant.close()
    return [
        _figures(folder, pair, answers[pair[0].id], (p50_ms[pair[0].id], p50_ms[pair[1].id]), yardstick, contract)
        for pair in pairs
    ]


def _figures(
    folder: ModelFolder,
    pair: tuple[Candidate, Candidate],
    answers: Arrays,
    p50_ms: tuple[float, float],
    yardstick: Yardstick,
    contract: Contract,
) -> Quantized:
    """All that is known of a candidate and the one that it came from."""
    candidate, source = pair
    fidelity = yardstick.fidelity(answers)
    package = folder.package(candidate.package_id)
    entry = package.entry
    precision = entry.precision if entry.precision is not Precision.FP32 else Precision(candidate.precision)
    source_metric = yardstick.metric(yardstick.reference)
    details = entry.made_by.details if entry.made_by else {}
    return Quantized(
        candidate_id=candidate.id,
        package_id=entry.id,
        source_id=source.id,
        precision=precision,
        size_bytes=_size(folder, candidate),
        source_bytes=_size(folder, source),
        p50_ms=p50_ms[0],
        source_p50_ms=p50_ms[1],
        outputs=compare_outputs(yardstick.reference, answers),
        metric=fidelity.metric,
        source_metric=source_metric,
        judged=yardstick.calibration.judged.name,
        num_judged=yardstick.calibration.num_judged,
        outside=violation(fidelity, precision, contract, source_metric),
        calibration=_calibration(details),
        kept=tuple(details.get("kept", ())),
        log=read_log(package),
    )


def _answers(folder: ModelFolder, contestant: Contestant, inputs: RaceInputs, work: Path) -> Arrays:
    rows = _rows_for(folder, contestant, _ROWS)
    outputs = work / "outputs.npz"
    padded = write_padded(inputs, rows, work / f"padded-{rows}.npz")
    contestant.compute(padded, outputs, rows, inputs.batched)
    answers = read_npz(outputs)
    return {name: array[: inputs.samples] for name, array in answers.items()} if inputs.batched else answers


def _times(folder: ModelFolder, opened: dict[str, Contestant], inputs: RaceInputs, work: Path) -> dict[str, float]:
    """The median over turns of each candidate's median, in ms."""
    medians: dict[str, list[float]] = {name: [] for name in opened}
    batches = {name: _rows_for(folder, contestant, 1) for name, contestant in opened.items()}
    for name, contestant in opened.items():
        path = write_batch(inputs, batches[name], work / f"timed-{batches[name]}.npz")
        contestant.prepare(batches[name], path, _WARMUP_S)
    for number in range(_TURNS):
        for name, contestant in opened.items():
            medians[name].append(contestant.turn(batches[name], number, _TURN).median_ms)
    return {name: statistics.median(values) for name, values in medians.items()}


def _rows_for(folder: ModelFolder, contestant: Contestant, rows: int) -> int:
    batch = folder.package(contestant.candidate.package_id).entry.batch
    return batch if isinstance(batch, int) else rows


def _size(folder: ModelFolder, candidate: Candidate) -> int:
    files = folder.package(candidate.package_id).entry.files
    return sum(file.bytes for file in files if not file.path.endswith(".json"))


def _calibration(details: dict[str, object]) -> str | None:
    if "rows" not in details:
        return None
    return f"{details.get('calibration')}, {details['data']} ({details['rows']} rows)"
