"""What the candidates are compared and timed on: the user's data, the model's evaluation data, or a generator.

Writes .npz files for the workers. Knows no runtime.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from runoff.errors import InputError
from runoff.models.arrays import Array, InputCheck, read_npz, write_npz
from runoff.models.configuration import known_bounds
from runoff.models.evaluation import Metric, metric_for, read_evaluation
from runoff.models.folder import ModelFolder
from runoff.models.manifest import FileEntry
from runoff.models.samples import batched_inputs, describe_samples, generate_inputs
from runoff.models.samples import take_rows as take_rows
from runoff.race.options import RaceOptions
from runoff.types import Signature

GENERATED_ROWS = 16
SEED = 0


@dataclass(frozen=True, slots=True)
class RaceInputs:
    """Inputs of a race.

    Attributes:
        arrays: by input name; samples along axis 0 of those named in `batched`.
        labels: one integer a sample, or None.
        name: where they came from, for the record.
        metric: name and function of the task metric, when there are labels to hold it against.
        batched: inputs that have a row for each sample; each of the others is the same for all.
    """

    arrays: dict[str, Array]
    labels: Array | None = None
    name: str = ""
    metric: tuple[str, Metric] | None = None
    batched: frozenset[str] = field(default_factory=frozenset)

    @property
    def samples(self) -> int:
        """The number of rows."""
        return next((len(array) for name, array in self.arrays.items() if name in self.batched), 1)


def find_inputs(folder: ModelFolder, options: RaceOptions) -> RaceInputs:
    """The inputs to race on: `options.data`, else the model's evaluation data, else generated ones.

    Raises:
        InputError: the data cannot be read, or do not fit the signature or the labels.
        FormatMismatch: the data are not an .npz file.
    """
    signature, evaluation = folder.manifest.signature, folder.manifest.evaluation
    batched = batched_inputs(signature)
    labels: Array | None = None
    if options.data is not None:
        arrays, labels, name = _read_data(options.data, options.labels)
    elif options.labels is not None:
        raise InputError("labels were given without the data that they belong to", hint="name the data too")
    elif evaluation is not None:
        found = read_evaluation(folder)
        arrays, labels = dict(found.inputs), found.labels
        name = f"evaluation sha256 {_shortened(evaluation.inputs, evaluation.labels)}"
    else:
        fixed = [entry.batch for entry in folder.manifest.packages if isinstance(entry.batch, int)]
        rows = max([min(GENERATED_ROWS, options.samples), *fixed])
        sizes, limits = known_bounds(folder)
        arrays = generate_inputs(signature, rows=rows, seed=SEED, sizes=sizes, limits=limits)
        name = describe_samples(SEED)
    _check(arrays, signature, batched, labels)
    arrays = {key: array[: options.samples] if key in batched else array for key, array in arrays.items()}
    labels = None if labels is None else labels[: options.samples]
    metric = metric_for(folder.manifest.task) if labels is not None else None
    return RaceInputs(arrays, labels, name, metric, batched)


def golden_inputs(folder: ModelFolder) -> tuple[RaceInputs, dict[str, Array]] | None:
    """The golden pair as inputs and reference outputs, for machines where the reference cannot run."""
    golden = folder.manifest.golden
    if golden is None:
        return None
    inputs = read_npz(folder.file(golden.inputs))
    outputs = read_npz(folder.file(golden.outputs))
    name = f"golden sha256 {_shortened(golden.inputs)}"
    return RaceInputs(inputs, name=name, batched=batched_inputs(folder.manifest.signature)), outputs


def write_batch(inputs: RaceInputs, batch: int, path: Path) -> Path:
    """Write the first `batch` rows, repeated when there are fewer."""
    write_npz(path, take_rows(inputs.arrays, inputs.batched, np.arange(batch) % inputs.samples))
    return path


def write_padded(inputs: RaceInputs, rows: int, path: Path) -> Path:
    """Write every row, padded by repetition to a multiple of `rows`, so that one shape runs throughout."""
    total = -(-inputs.samples // rows) * rows
    return write_batch(inputs, total, path)


def _read_data(data: Path, labels: Path | None) -> tuple[dict[str, Array], Array | None, str]:
    """Arrays, labels, and what the record calls them."""
    try:
        digest = hashlib.sha256(data.read_bytes())
        arrays = read_npz(data)
        stored = None if labels is None else labels.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {error.filename or data}: {error.strerror}") from error
    if not arrays:
        raise InputError(f"{data} holds no arrays")
    values = None
    if stored is not None:
        digest.update(stored)
        try:
            values = np.load(io.BytesIO(stored), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise InputError(f"{labels} is not a readable .npy file: {error}") from error
        if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iu":
            raise InputError(f"{labels} does not hold one integer for each row of {data}")
    return arrays, values, f"data sha256 {digest.hexdigest()[:16]}"


def _check(arrays: dict[str, Array], signature: Signature, batched: frozenset[str], labels: Array | None) -> None:
    """Hold data of any number of rows against the signature and the labels."""
    inputs = tuple(
        msgspec.structs.replace(spec, shape=("rows", *spec.shape[1:])) if spec.name in batched else spec
        for spec in signature.inputs
    )
    InputCheck(Signature(inputs, signature.outputs))(arrays)
    counts = {name: len(array) for name, array in arrays.items() if name in batched}
    if labels is not None and set(counts.values()) != {len(labels)}:
        raise InputError(f"there are {len(labels)} labels for {', '.join(map(str, counts.values())) or 'no'} rows")


def _shortened(*files: FileEntry) -> str:
    return hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()[:16]
