"""What the candidates are compared and timed on: the user's data, the model's evaluation data, or a generator.

Writes .npz files for the workers. Knows no runtime.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runoff.errors import InputError
from runoff.models.arrays import Array, InputCheck, read_npz, write_npz
from runoff.models.evaluation import metric_for, read_evaluation
from runoff.models.folder import ModelFolder
from runoff.models.samples import GENERATOR, generate_inputs
from runoff.race.options import RaceOptions

GENERATED_ROWS = 16
SEED = 0


@dataclass(frozen=True, slots=True)
class RaceInputs:
    """Inputs of a race.

    Attributes:
        arrays: by input name, samples along axis 0.
        labels: one integer a sample, or None.
        name: where they came from, for the record.
        metric: name and function of the task metric, when there are labels to hold it against.
    """

    arrays: dict[str, Array]
    labels: Array | None
    name: str
    metric: tuple[str, Callable[[dict[str, Array], Array], float]] | None

    @property
    def samples(self) -> int:
        """The number of rows."""
        return len(next(iter(self.arrays.values())))


def find_inputs(folder: ModelFolder, options: RaceOptions) -> RaceInputs:
    """The inputs to race on: `options.data`, else the model's evaluation data, else generated ones.

    Raises:
        InputError: the data do not fit the signature or the labels.
        FormatMismatch: the data are not an .npz file.
    """
    metric = metric_for(folder.manifest.task)
    signature = folder.manifest.signature
    if options.data is not None:
        arrays, labels = _read_data(options.data, options.labels)
        name = f"data sha256 {hashlib.sha256(options.data.read_bytes()).hexdigest()[:16]}"
    elif folder.manifest.evaluation is not None:
        evaluation = read_evaluation(folder)
        arrays, labels = dict(evaluation.inputs), evaluation.labels
        name = f"evaluation sha256 {folder.manifest.evaluation.inputs.sha256[:16]}"
    else:
        rows = min(GENERATED_ROWS, options.samples)
        fixed = [entry.batch for entry in folder.manifest.packages if isinstance(entry.batch, int)]
        rows = max([rows, *fixed])
        arrays, labels = generate_inputs(signature, rows=rows, seed=SEED), None
        name = f"{GENERATOR} seed {SEED}"
    InputCheck(signature)(_fit_batch(arrays, signature.inputs[0].shape[0] if signature.inputs[0].shape else 1))
    arrays = {key: array[: options.samples] for key, array in arrays.items()}
    labels = None if labels is None else labels[: options.samples]
    return RaceInputs(arrays, labels, name, metric if labels is not None else None)


def golden_inputs(folder: ModelFolder) -> tuple[RaceInputs, dict[str, Array]] | None:
    """The golden pair as inputs and reference outputs, for machines where the reference cannot run."""
    golden = folder.manifest.golden
    if golden is None:
        return None
    inputs = read_npz(folder.file(golden.inputs))
    outputs = read_npz(folder.file(golden.outputs))
    return RaceInputs(inputs, None, f"golden sha256 {golden.inputs.sha256[:16]}", None), outputs


def write_batch(inputs: RaceInputs, batch: int, path: Path) -> Path:
    """Write the first `batch` rows, repeated when there are fewer."""
    rows = np.arange(batch) % inputs.samples
    write_npz(path, {name: np.ascontiguousarray(array[rows]) for name, array in inputs.arrays.items()})
    return path


def write_padded(inputs: RaceInputs, rows: int, path: Path) -> Path:
    """Write every row, padded by repetition to a multiple of `rows`, so that one shape runs throughout."""
    total = -(-inputs.samples // rows) * rows
    return write_batch(inputs, total, path)


def _read_data(data: Path, labels: Path | None) -> tuple[dict[str, Array], Array | None]:
    arrays = read_npz(data)
    if not arrays:
        raise InputError(f"{data} holds no arrays")
    if labels is None:
        return arrays, None
    try:
        values = np.load(labels, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{labels} is not a readable .npy file: {error}") from error
    rows = len(next(iter(arrays.values())))
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer) or len(values) != rows:
        raise InputError(
            f"{labels} holds {values.dtype}{list(values.shape)}, expected one integer for each of {rows} rows"
        )
    return arrays, values


def _fit_batch(arrays: dict[str, Array], dim: int | str) -> dict[str, Array]:
    """What one run would see, so that data of many rows can be held against a fixed batch."""
    if isinstance(dim, str):
        return arrays
    return {name: np.resize(array, (dim, *array.shape[1:])) for name, array in arrays.items()}
