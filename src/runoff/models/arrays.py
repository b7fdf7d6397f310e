"""numpy arrays held against a signature: dtypes, input checks, and .npz files that keep bf16.

Knows no runtime. numpy has no bf16 of its own: `ml_dtypes` supplies it, and .npz files store it as the
uint16 bits under a key with the suffix `BF16_SUFFIX`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from runoff.errors import FormatMismatch, InputError
from runoff.types import DType, Signature, TensorSpec

Array: TypeAlias = NDArray[np.generic]
Arrays: TypeAlias = Mapping[str, Array]

BF16_SUFFIX = "@bf16"
_NUMPY: dict[DType, np.dtype[np.generic]] = {
    DType.FP64: np.dtype(np.float64),
    DType.FP32: np.dtype(np.float32),
    DType.FP16: np.dtype(np.float16),
    DType.BF16: np.dtype(ml_dtypes.bfloat16),
    DType.INT64: np.dtype(np.int64),
    DType.INT32: np.dtype(np.int32),
    DType.INT16: np.dtype(np.int16),
    DType.INT8: np.dtype(np.int8),
    DType.UINT64: np.dtype(np.uint64),
    DType.UINT32: np.dtype(np.uint32),
    DType.UINT16: np.dtype(np.uint16),
    DType.UINT8: np.dtype(np.uint8),
    DType.BOOL: np.dtype(np.bool_),
    DType.STRING: np.dtype(np.object_),
}
_NAMES = {dtype: name for name, dtype in _NUMPY.items()}


def numpy_dtype(dtype: DType) -> np.dtype[np.generic]:
    """The numpy dtype of a Runoff dtype."""
    return _NUMPY[dtype]


def dtype_name(dtype: np.dtype[np.generic]) -> DType:
    """The Runoff dtype of a numpy dtype.

    Raises:
        InputError: numpy has it, Runoff does not (complex, datetime, ...).
    """
    if dtype.kind in "US":
        return DType.STRING
    try:
        return _NAMES[dtype]
    except KeyError:
        raise InputError(f"arrays of dtype {dtype} are not supported", hint="convert with .astype(...)") from None


def narrow(name: str, array: Array, dtype: np.dtype[np.generic]) -> Array:
    """The array in a narrower dtype that a file holds its input in.

    Raises:
        InputError: numbers that do not fit.
    """
    narrowed = array.astype(dtype)
    if not np.array_equal(narrowed, array):
        raise InputError(
            f"input {name!r} has numbers outside {dtype}, in which this file takes it",
            hint="open the model with another backend, such as onnx",
        )
    return narrowed


class InputCheck:
    """Checks inputs against a signature; built once for a session, called for every run."""

    __slots__ = ("_count", "_names", "_rows", "_signature")

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._names = frozenset(spec.name for spec in signature.inputs)
        self._count = len(signature.inputs)
        self._rows = [
            (
                spec,
                spec.name,
                numpy_dtype(spec.dtype),
                len(spec.shape),
                [(axis, dim) for axis, dim in enumerate(spec.shape) if isinstance(dim, int)],
                [(axis, dim) for axis, dim in enumerate(spec.shape) if isinstance(dim, str)],
            )
            for spec in signature.inputs
        ]

    def __call__(self, inputs: Arrays) -> None:
        """Check names, dtype, rank, fixed dimensions, and that one name means one size.

        Raises:
            InputError: the first thing that does not fit, with the whole expectation.
        """
        if len(inputs) != self._count:
            raise self._wrong_names(inputs)
        sizes: dict[str, int] = {}
        for spec, name, dtype, rank, fixed, named in self._rows:
            array = inputs.get(name)
            if array is None:
                raise self._wrong_names(inputs)
            if not isinstance(array, np.ndarray):
                raise InputError(
                    f"input {name!r} is a {type(array).__name__}, expected a numpy array for {spec}",
                    hint=f"numpy.asarray(value, dtype={dtype})",
                )
            if array.dtype != dtype and not (spec.dtype is DType.STRING and array.dtype.kind in "US"):
                raise InputError(
                    f"input {name!r} has dtype {array.dtype}, expected {spec}", hint=f".astype({str(dtype)!r})"
                )
            shape = array.shape
            if len(shape) != rank:
                raise InputError(
                    f"input {name!r} has shape {list(shape)} of rank {len(shape)}, expected {spec} of rank {rank}",
                    hint="add the batch dimension with array[None]" if len(shape) == rank - 1 else None,
                )
            for axis, dim in fixed:
                if shape[axis] != dim:
                    raise InputError(f"input {name!r} has shape {list(shape)}: axis {axis} must be {dim} in {spec}")
            for axis, label in named:
                size = shape[axis]
                if size == 0:
                    raise InputError(
                        f"input {name!r} has shape {list(shape)}: axis {axis} ({label}) is empty in {spec}"
                    )
                if sizes.setdefault(label, size) != size:
                    raise InputError(
                        f"input {name!r} has shape {list(shape)}: {label} is {size} here, {sizes[label]} elsewhere"
                    )

    def _wrong_names(self, inputs: Arrays) -> InputError:
        missing = sorted(self._names - set(inputs))
        extra = sorted(set(inputs) - self._names)
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"unknown {', '.join(map(str, extra))}"] if extra else []
        expected = "; ".join(str(spec) for spec in self._signature.inputs)
        return InputError(f"inputs do not match the signature: {', '.join(parts)}; expected {expected}")


def batch_size(signature: Signature, inputs: Arrays) -> int:
    """The number of rows: the size of the first input's first axis, or 1 for a scalar."""
    array = inputs[signature.inputs[0].name]
    return int(array.shape[0]) if array.ndim else 1


def spec_of(name: str, array: Array) -> TensorSpec:
    """The spec that describes exactly this array."""
    return TensorSpec(name, dtype_name(array.dtype), tuple(int(dim) for dim in array.shape))


def write_npz(path: Path, arrays: Arrays) -> None:
    """Write arrays to an .npz file, bf16 included."""
    bf16 = numpy_dtype(DType.BF16)
    stored = {
        (name + BF16_SUFFIX if array.dtype == bf16 else name): (array.view(np.uint16) if array.dtype == bf16 else array)
        for name, array in arrays.items()
    }
    # Opened here because numpy would append .npz to a path that lacks it.
    with path.open("wb") as file:
        np.savez(file, **stored)  # type: ignore[arg-type]


def read_npz(path: Path) -> dict[str, Array]:
    """Read the arrays of an .npz file. Nothing is unpickled.

    Raises:
        FormatMismatch: not an .npz file, damaged, or one that holds pickled objects.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise FormatMismatch(f"{path} holds a single array, not an .npz archive")
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise FormatMismatch(f"{path} is not a readable .npz file: {error}") from error
    bf16 = numpy_dtype(DType.BF16)
    return {
        name.removesuffix(BF16_SUFFIX): array.view(bf16) if name.endswith(BF16_SUFFIX) else array
        for name, array in arrays.items()
    }
