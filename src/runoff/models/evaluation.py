"""The labelled data and the class names of a model folder, and the task metrics that are plain numpy.

Knows no task object and no runtime, so that a race can hold a package against labels without them.
Axes: `N` rows, `C` classes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from runoff.errors import FormatMismatch, InputError, ManifestInvalid
from runoff.models.arrays import Array, Arrays, InputCheck, read_npz
from runoff.models.folder import ModelFolder
from runoff.types import Signature

Metric: TypeAlias = Callable[[Arrays, Array], float]
"""Outputs by name and N integer labels to one figure; larger is better."""


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationData:
    """Labelled rows.

    Attributes:
        inputs: arrays by input name, each with N rows along its first axis.
        labels: class ids, shape (N,).
    """

    inputs: dict[str, Array]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def read_labels(folder: ModelFolder) -> tuple[str, ...]:
    """The class names of a model by class id; empty when its manifest names no file of labels.

    Raises:
        ManifestInvalid: the file is not UTF-8 text of one name a line.
        ModelNotFound, DigestMismatch, PathEscapes: see `Package.verify`.
    """
    entry = folder.manifest.labels
    if entry is None:
        return ()
    path = folder.file(entry)
    try:
        names = tuple(line.strip() for line in path.read_bytes().decode().splitlines())
    except UnicodeDecodeError as error:
        raise ManifestInvalid(f"the labels in {path} are not UTF-8 text: {error}") from error
    if not names or not all(names):
        raise ManifestInvalid(f"the labels in {path} have an empty line or none at all", hint="write one name a line")
    return names


def read_evaluation(folder: ModelFolder) -> EvaluationData:
    """The labelled data of a model, held against its signature and its classes.

    Raises:
        InputError: there is none, or it is empty, of unequal length, or does not fit the signature or the classes.
        FormatMismatch: a file is not the .npz or .npy that it should be.
        ModelNotFound, DigestMismatch, PathEscapes: see `Package.verify`.
    """
    evaluation = folder.manifest.evaluation
    if evaluation is None:
        raise InputError(
            f"the model in {folder.root} has no evaluation data",
            hint="name an .npz of inputs and an .npy of labels under 'evaluation' in its manifest",
        )
    where = f"the evaluation data of {folder.root}"
    inputs = read_npz(folder.file(evaluation.inputs))
    labels = _read_class_ids(folder.file(evaluation.labels))
    if labels.size == 0:
        raise InputError(f"{where} has no rows")
    InputCheck(_of_any_length(folder.manifest.signature))(inputs)
    for name, array in inputs.items():
        num_rows = array.shape[0] if array.ndim else 1
        if num_rows != len(labels):
            raise InputError(f"{where} has {num_rows} rows of input {name!r} and {len(labels)} labels")
    num_classes = len(read_labels(folder)) or _num_classes(folder.manifest.signature)
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or (num_classes is not None and highest >= num_classes):
        wanted = "0 and up" if num_classes is None else f"0 to {num_classes - 1}"
        raise InputError(f"{where} has class ids from {lowest} to {highest}, expected {wanted}")
    return EvaluationData(inputs, labels)


def _read_class_ids(path: Path) -> NDArray[np.int64]:
    try:
        labels = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise FormatMismatch(f"{path} is not a readable .npy file: {error}") from error
    if not isinstance(labels, np.ndarray):
        raise FormatMismatch(f"{path} is an .npz archive, expected an .npy file of one integer a row")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"the labels in {path} are {labels.dtype}{list(labels.shape)}, expected one integer a row")
    return labels.astype(np.int64)


def _of_any_length(signature: Signature) -> Signature:
    """The signature with a free first axis: data has all its rows, whatever batch the model was made for."""
    inputs = tuple(
        msgspec.structs.replace(spec, shape=("rows", *spec.shape[1:])) if spec.shape else spec
        for spec in signature.inputs
    )
    return Signature(inputs, signature.outputs)


def _num_classes(signature: Signature) -> int | None:
    """The classes that a fixed last dimension of the only output of rank 2 tells, else None."""
    shapes = [spec.shape for spec in signature.outputs if len(spec.shape) == 2]
    last = shapes[0][1] if len(shapes) == 1 else None
    return last if isinstance(last, int) else None


def class_outputs(outputs: Arrays) -> Array:
    """The output that holds one figure a class: the only one of rank 2, shape (N, C).

    Raises:
        InputError: no output has rank 2, or several have.
    """
    found = [array for array in outputs.values() if array.ndim == 2]
    if len(found) != 1:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
        raise InputError(f"a classifier has exactly one output of shape [rows, classes], got {shapes or 'none'}")
    return found[0]


def top1_accuracy(outputs: Arrays, labels: Array) -> float:
    """The share of rows, 0 to 1, whose largest class output is at the label; a row with a NaN is wrong.

    Raises:
        InputError: there is no (N, C) output, or not one label for each of its rows, or no row.
    """
    scores = class_outputs(outputs).astype(np.float32, copy=False)
    if labels.shape != scores.shape[:1] or not len(labels):
        raise InputError(f"accuracy needs one label a row, got {len(labels)} labels for {len(scores)} rows")
    right = (scores.argmax(axis=1) == labels) & ~np.isnan(scores).any(axis=1)
    return float(right.mean())


_METRICS: dict[str, tuple[str, Metric]] = {
    "image-classification": ("accuracy", top1_accuracy),
    "text-classification": ("accuracy", top1_accuracy),
}


def metric_for(task_id: str | None) -> tuple[str, Metric] | None:
    """Name and function of a task's metric; None for a model without a task, or a task without a metric."""
    return None if task_id is None else _METRICS.get(task_id)
