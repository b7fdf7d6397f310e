"""Calibration data: the rows that a quantiser reads ranges from, and other rows that its result is judged on.

The user's data, else the model's evaluation data, else generated rows. Knows no runtime and no quantiser.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from runoff.errors import FormatMismatch, InputError
from runoff.models.arrays import Array, Arrays, InputCheck, read_npz
from runoff.models.configuration import known_bounds
from runoff.models.evaluation import read_evaluation
from runoff.models.folder import ModelFolder
from runoff.models.samples import batched_inputs, describe_samples, generate_inputs, take_rows
from runoff.types import DType, Signature

MAX_ROWS = 128
"""Calibration rows: ranges hardly change beyond, and every row costs a run of the whole network."""
_MAX_JUDGED = 512
_GENERATED_ROWS = 64
_JUDGED_SEED, _READ_SEED = 0, 1


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Inputs by name, where they came from, and one integer label a row where there are labels."""

    arrays: Arrays
    name: str
    labels: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What a quantiser reads and what it is judged on; no row is in both.

    Attributes:
        read: the calibration rows.
        judged: the rows on which the result is held against the reference, and against labels.
        batched: the inputs that have a row for each sample.
    """

    read: Rows
    judged: Rows
    batched: frozenset[str]

    @property
    def num_read(self) -> int:
        """The number of calibration rows."""
        return count_rows(self.read.arrays, self.batched)

    @property
    def num_judged(self) -> int:
        """The number of rows that the result is judged on."""
        return count_rows(self.judged.arrays, self.batched)


def find_calibration(folder: ModelFolder, data: Rows | None = None) -> Calibration:
    """Part the user's rows, else the model's evaluation rows, else generated ones.

    At most 128 rows, and at most half, are for calibration: evenly spaced, since data are often sorted by class. The
    rest is what the result is judged on. Data without labels are all for calibration where the model has
    labelled rows of its own to be judged on.

    Args:
        folder: the model.
        data: rows of the user, as `read_data` gives them.

    Raises:
        InputError: rows do not fit the signature or the labels, are empty, or hold NaN; or a single row cannot be
            parted.
    """
    signature = folder.manifest.signature
    batched = batched_inputs(signature)
    own = None
    if folder.manifest.evaluation is not None and (data is None or data.labels is None):
        evaluation = read_evaluation(folder)
        own = Rows(dict(evaluation.inputs), "the model's evaluation data", evaluation.labels)
        check_rows(own, signature, batched)
    if data is None and own is None:
        sizes, limits = known_bounds(folder)
        read, judged = (
            generate_inputs(signature, rows=_GENERATED_ROWS, seed=seed, sizes=sizes, limits=limits)
            for seed in (_READ_SEED, _JUDGED_SEED)
        )
        names = [describe_samples(seed) for seed in (_READ_SEED, _JUDGED_SEED)]
        return Calibration(Rows(read, names[0]), Rows(judged, names[1]), batched)
    if data is not None:
        check_rows(data, signature, batched)
        if own is not None:
            spaced = _spaced(count_rows(data.arrays, batched), MAX_ROWS)
            return Calibration(_part(data, batched, spaced), _part(own, batched, None), batched)
    return _split(data or own, batched)


def read_data(path: Path, labels: Path | None = None) -> Rows:
    """Read rows of the user: an .npz of inputs by name, or a folder of such files, joined in the order of their names.

    Args:
        path: the file or folder.
        labels: an .npy of one integer a row.

    Raises:
        InputError: nothing is there, or files do not fit each other.
        FormatMismatch: a file is no readable .npz, or holds pickled objects.
    """
    try:
        files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        if not files:
            raise InputError(f"the folder {path} has no .npz file", hint="one .npz of inputs by name for each sample")
        parts = [read_npz(file) for file in files]
        stored = None if labels is None else labels.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {error.filename or path}: {error.strerror}") from error
    arrays = _join(parts, files)
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return Rows(arrays, f"data sha256 {digest.hexdigest()[:16]}", None if stored is None else _labels(stored, labels))


def check_rows(rows: Rows, signature: Signature, batched: Collection[str]) -> None:
    """Hold rows against the signature.

    Raises:
        InputError: names, dtypes or shapes differ, there is no row, a value is NaN or infinite, or there is not one
            label for each row.
    """
    free = tuple(
        msgspec.structs.replace(spec, shape=("rows", *spec.shape[1:])) if spec.name in batched else spec
        for spec in signature.inputs
    )
    InputCheck(Signature(free, signature.outputs))(rows.arrays)
    for spec in signature.inputs:
        array = rows.arrays[spec.name]
        if array.size == 0:
            raise InputError(f"input {spec.name!r} of {rows.name} is empty: shape {list(array.shape)}")
        if spec.dtype in (DType.FP32, DType.FP64, DType.FP16, DType.BF16):
            broken = int((~np.isfinite(array.astype(np.float64))).sum())
            if broken:
                raise InputError(f"input {spec.name!r} of {rows.name} has {broken} values that are NaN or infinite")
    count = count_rows(rows.arrays, batched)
    if rows.labels is not None and len(rows.labels) != count:
        raise InputError(f"there are {len(rows.labels)} labels for {count} rows of {rows.name}")


def count_rows(arrays: Arrays, batched: Collection[str]) -> int:
    """The number of rows."""
    return next((len(array) for name, array in arrays.items() if name in batched), 1)


def _split(rows: Rows | None, batched: frozenset[str]) -> Calibration:
    """Evenly spaced rows for calibration, the others to be judged on."""
    if rows is None:
        raise InputError("there are no rows to part")
    total = count_rows(rows.arrays, batched)
    if total < 2:
        raise InputError(
            f"{rows.name} has a single row, which cannot both calibrate and be judged on",
            hint="hand in at least two rows, better a hundred",
        )
    read = _spaced(total, min(MAX_ROWS, total // 2))
    rest = np.setdiff1d(np.arange(total), read)
    return Calibration(_part(rows, batched, read), _part(rows, batched, rest), batched)


def _spaced(total: int, wanted: int) -> Array:
    """Up to `wanted` different row numbers below `total`, evenly spaced."""
    return np.unique(np.linspace(0, total - 1, min(wanted, total)).astype(np.int64))


def _part(rows: Rows, batched: frozenset[str], chosen: Array | None) -> Rows:
    total = count_rows(rows.arrays, batched)
    chosen = np.arange(total) if chosen is None else chosen
    chosen = chosen[_spaced(len(chosen), _MAX_JUDGED)]
    labels = None if rows.labels is None else rows.labels[chosen]
    name = rows.name if len(chosen) == total else f"{len(chosen)} of {total} rows of {rows.name}"
    return Rows(take_rows(rows.arrays, batched, chosen), name, labels)


def _join(parts: list[dict[str, Array]], files: list[Path]) -> dict[str, Array]:
    first = parts[0]
    for file, part in zip(files, parts, strict=True):
        if not part:
            raise InputError(f"{file} holds no arrays")
        if part.keys() != first.keys():
            raise InputError(f"{file} holds {', '.join(part)}, {files[0].name} holds {', '.join(first)}")
    if len(parts) == 1:
        return first
    try:
        return {name: np.concatenate([part[name] for part in parts]) for name in first}
    except ValueError as error:
        raise InputError(f"the files of {files[0].parent} do not fit each other: {error}") from error


def _labels(stored: bytes, path: Path | None) -> Array:
    try:
        values = np.load(io.BytesIO(stored), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise FormatMismatch(f"{path} is not a readable .npy file: {error}") from error
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iu":
        raise InputError(f"{path} does not hold one integer for each row")
    return values
