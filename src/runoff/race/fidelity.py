"""Fidelity: how far outputs are from the reference's, and whether that is within the contract.

Pure numpy: knows no runtime. Gated on the largest relative error *and* on the centred cosine: plain cosine flatters
a network whose outputs barely depend on its input, since the part they share dominates it.
"""

from __future__ import annotations

import sys
from typing import Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from runoff.errors import RaceError
from runoff.models.arrays import Array, Arrays
from runoff.models.manifest import Fidelity
from runoff.types import Precision

Level: TypeAlias = Literal["exact", "close", "bounded"]


class OutputFigures(msgspec.Struct, frozen=True):
    """How far one output is from the reference's; see `Fidelity` for the figures."""

    max_abs: float
    max_rel: float
    cosine: float
    centred_cosine: float


class Limits(msgspec.Struct, frozen=True):
    """The worst figures that a level admits.

    Attributes:
        max_rel: of the largest absolute error over the largest magnitude of the reference output.
        centred_cosine: over outputs from which the reference's mean over the samples is subtracted.
        top1: share of samples with the same best class, for classifiers.
    """

    max_rel: float
    centred_cosine: float
    top1: float


LEVELS: dict[Level, Limits] = {
    # Measured fp32 against fp32 over seven nets and eight runtimes: at most 2e-5; an fp16 run gives 6e-4 and more.
    "exact": Limits(max_rel=1e-4, centred_cosine=0.99999, top1=0.99),
    # Measured bf16 on transformers: at most 2e-2 with a centred cosine of 1.00.
    "close": Limits(max_rel=5e-2, centred_cosine=0.99, top1=0.98),
    "bounded": Limits(max_rel=2e-1, centred_cosine=0.95, top1=0.95),
}
_LEVEL_OF: dict[Precision, Level] = {
    Precision.FP32: "exact",
    Precision.BF16: "close",
    Precision.FP16: "close",
    Precision.INT8: "bounded",
    Precision.INT4: "bounded",
}


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a candidate must keep to.

    Attributes:
        level: one level for all; None holds each to the level of the precision that it runs at.
        max_error: replaces the level's `max_rel` when given.
        max_metric_drop: how much of the task metric may be lost, as a fraction (0.005 is half a percentage point).
    """

    level: Level | None = None
    max_error: float | None = None
    max_metric_drop: float | None = None


DEFAULT_METRIC_DROP = 0.005
_LARGEST = sys.float_info.max
"""Stands for infinity, which JSON lacks."""
_ROUNDING = 1e-6
"""An output that varies by less than this over the samples, relative to its size, is a constant and rounding."""


def compare(reference: Arrays, outputs: Arrays, *, against: str, inputs: str, classifier: bool) -> Fidelity:
    """Figures of outputs against the reference's, worst output first.

    Args:
        reference, outputs: arrays by output name, samples along axis 0.
        against: package id of the reference.
        inputs: where the inputs came from.
        classifier: whether the first output is scores by class, so that top-1 agreement means something.

    Raises:
        RaceError: names or shapes differ, or one is NaN or infinite where the other is not.
    """
    figures = compare_outputs(reference, outputs).values()
    first = next(iter(reference))
    top1 = None
    if classifier and reference[first].ndim == 2:
        top1 = float(np.mean(reference[first].argmax(axis=1) == outputs[first].argmax(axis=1)))
    return Fidelity(
        against=against,
        samples=len(reference[first]) if reference[first].ndim else 1,
        inputs=inputs,
        max_abs=max(figure.max_abs for figure in figures),
        max_rel=max(figure.max_rel for figure in figures),
        cosine=min(figure.cosine for figure in figures),
        centred_cosine=min(figure.centred_cosine for figure in figures),
        top1=top1,
    )


def compare_outputs(reference: Arrays, outputs: Arrays) -> dict[str, OutputFigures]:
    """Figures of each output against the reference's, by name.

    Raises:
        RaceError: names or shapes differ, or one is NaN or infinite where the other is not.
    """
    if set(reference) != set(outputs):
        raise RaceError(f"outputs are {sorted(outputs)}, the reference's are {sorted(reference)}")
    return {name: _compare_one(name, reference[name], outputs[name]) for name in reference}


def _compare_one(name: str, expected: Array, got: Array) -> OutputFigures:
    """Largest absolute and relative error, cosine and centred cosine of one output."""
    if expected.shape != got.shape:
        raise RaceError(f"output {name!r} has shape {list(got.shape)}, the reference's is {list(expected.shape)}")
    a, b = _as_numbers(expected, got)
    alike = (np.isnan(a) & np.isnan(b)) | (np.isinf(a) & (a == b))
    a, b = np.where(alike, 0.0, a), np.where(alike, 0.0, b)
    broken = int((~(np.isfinite(a) & np.isfinite(b))).sum())
    if broken:
        raise RaceError(
            f"output {name!r} is NaN or infinite where the reference is not, or the other way round: "
            f"{broken} of {a.size} values"
        )
    with np.errstate(over="ignore"):
        max_abs = min(float(np.abs(a - b).max(initial=0.0)), _LARGEST)
    scale = float(np.abs(a).max(initial=0.0)) or 1.0
    max_rel = min(max_abs / scale, _LARGEST)
    # In units of the reference from here on: cosines do not mind, and sums of large values overflow.
    with np.errstate(over="ignore"):
        a, b = a / scale, np.clip(b / scale, -_LARGEST, _LARGEST)
    cosine = _cosine(a, b)
    if a.ndim == 0 or len(a) < 2:
        return OutputFigures(max_abs, max_rel, cosine, cosine)
    mean = a.mean(axis=0, keepdims=True)
    is_constant = np.abs(a - mean).max(initial=0.0) <= _ROUNDING
    return OutputFigures(max_abs, max_rel, cosine, cosine if is_constant else _cosine(a - mean, b - mean))


def _as_numbers(expected: Array, got: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as fp64. Strings are equal or not: the reference is all ones, and so is the other where it agrees."""
    if expected.dtype.kind in "OSU" or got.dtype.kind in "OSU":
        return np.ones(expected.shape), np.asarray(expected == got, np.float64)
    return expected.astype(np.float64), got.astype(np.float64)


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    size_a, size_b = np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0)
    if size_a == 0.0 or size_b == 0.0:
        return 1.0 if size_a == size_b else 0.0
    a, b = a / size_a, b / size_b
    return max(-1.0, min(1.0, float(np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))))


def limits_of(runs_at: Precision, contract: Contract) -> Limits:
    """The error limits that a contract sets for what runs at a precision; an error alone limits nothing else."""
    limits = LEVELS[contract.level or _LEVEL_OF[runs_at]]
    if contract.max_error is None:
        return limits
    if contract.level is None:
        return Limits(contract.max_error, centred_cosine=-1.0, top1=0.0)
    return msgspec.structs.replace(limits, max_rel=contract.max_error)


def violation(
    fidelity: Fidelity, runs_at: Precision, contract: Contract, reference_metric: dict[str, float]
) -> str | None:
    """Why the figures are outside the contract, or None when they are within it.

    Labelled data decides for precisions below fp32: the metric may drop by `max_metric_drop`, and the error limits
    of the level apply only where the caller asked for a level or an error. An fp32 candidate must be exact whatever
    its metric says: a wrong export can keep its accuracy.
    """
    level = contract.level or _LEVEL_OF[runs_at]
    limits = limits_of(runs_at, contract)
    drops = {name: value - fidelity.metric[name] for name, value in reference_metric.items() if name in fidelity.metric}
    allowed = DEFAULT_METRIC_DROP if contract.max_metric_drop is None else contract.max_metric_drop
    for name, drop in drops.items():
        if drop > allowed + 1e-12:
            return f"{name} drops by {drop * 100:.2f} pp, more than {allowed * 100:.2f} pp"
    asked = contract.level is not None or contract.max_error is not None
    if drops and level != "exact" and not asked:
        return None
    if not fidelity.max_rel <= limits.max_rel:
        return f"largest relative error {fidelity.max_rel:.2g} is over {limits.max_rel:.2g} ({level})"
    if not fidelity.centred_cosine >= limits.centred_cosine:
        return f"centred cosine {fidelity.centred_cosine:.5f} is under {limits.centred_cosine:g} ({level})"
    if fidelity.top1 is not None and not fidelity.top1 >= limits.top1:
        return f"top-1 agreement {fidelity.top1 * 100:.1f} % is under {limits.top1 * 100:g} % ({level})"
    return None
