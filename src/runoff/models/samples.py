"""Inputs made from a signature alone, by a generator that has a name: the same name and seed give the same arrays.

Knows no data and no runtime. Records that rest on such inputs say so with `describe_samples`. Floats are
standard normal. Integers are uniform below a limit, except those whose name says what they hold: masks are
all ones, token types zeros, positions count up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from runoff.errors import InputError
from runoff.models.arrays import Array, numpy_dtype
from runoff.models.dimensions import batch_dimension as batch_dimension
from runoff.types import DType, Signature, TensorSpec

GENERATOR = "normal-v1"
DEFAULT_SIZE = 32
"""Size of a named dimension that is not the batch and that nobody gave a size."""
DEFAULT_SIZES = {"decoder_sequence": 16, "height": 224, "width": 256, "samples": 16000}
"""The same for names whose meaning is known: pixels, and sound at 16 kHz."""
DEFAULT_LIMIT = 100
"""Integers are drawn below it: small enough for any vocabulary."""

_FLOATS = {DType.FP64, DType.FP32, DType.FP16, DType.BF16}
_BYTE_LIMIT = 256


def describe_samples(seed: int) -> str:
    """What records call the inputs that `generate_inputs` made with that seed."""
    return f"{GENERATOR} seed {seed}"


def generate_inputs(
    signature: Signature,
    *,
    rows: int,
    seed: int,
    sizes: Mapping[str, int] | None = None,
    limits: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """Make inputs that fit a signature.

    Args:
        signature: its inputs are filled in order, so that a new output changes nothing.
        rows: size of the batch dimension; where the signature fixes it, the fixed size is used.
        seed: seed of the generator.
        sizes: size of each other named dimension; `DEFAULT_SIZES` and 32 unless given.
        limits: by input name, the integer that values stay below, such as {"input_ids": vocabulary size}.

    Raises:
        InputError: an input holds strings, which no generator can guess.
    """
    generator = np.random.default_rng(seed)
    batch = batch_dimension(signature)
    known = {**DEFAULT_SIZES, **(sizes or {})}
    if batch is not None:
        known[batch] = rows
    arrays: dict[str, Array] = {}
    for spec in signature.inputs:
        shape = tuple(dim if isinstance(dim, int) else known.get(dim, DEFAULT_SIZE) for dim in spec.shape)
        arrays[spec.name] = _fill(spec, shape, generator, (limits or {}).get(spec.name))
    return arrays


def _fill(spec: TensorSpec, shape: tuple[int, ...], generator: np.random.Generator, limit: int | None) -> Array:
    dtype = numpy_dtype(spec.dtype)
    if spec.dtype is DType.STRING:
        raise InputError(
            f"no generator for {spec}: strings cannot be guessed", hint="hand in evaluation data of your own"
        )
    if "mask" in spec.name:
        return np.ones(shape, dtype)
    if spec.dtype in _FLOATS:
        return generator.standard_normal(shape, dtype=np.float32).astype(dtype)
    if spec.dtype is DType.BOOL:
        return generator.integers(0, 2, shape).astype(dtype)
    if "token_type" in spec.name:
        return np.zeros(shape, dtype)
    if "position" in spec.name and shape:
        return np.broadcast_to(np.arange(shape[-1]), shape).astype(dtype)
    if limit is None:
        limit = _BYTE_LIMIT if spec.dtype is DType.UINT8 else DEFAULT_LIMIT
    return generator.integers(0, limit, shape).astype(dtype)


def resize_rows(signature: Signature, arrays: Mapping[str, Array], rows: int) -> dict[str, Array]:
    """The same inputs with another number of rows: cut, or repeated from the first row on.

    Inputs without the batch dimension stay as they are, and so does everything where it is fixed.
    """
    batch = batch_dimension(signature)
    resized: dict[str, Array] = {}
    for spec in signature.inputs:
        array = arrays[spec.name]
        if batch is not None and batch in spec.shape:
            axis = spec.shape.index(batch)
            array = np.take(array, np.arange(rows) % array.shape[axis], axis=axis)
        resized[spec.name] = array
    return resized


def batched_inputs(signature: Signature) -> frozenset[str]:
    """The inputs whose first axis is the batch: the named dimension, or where it is fixed the first input's first."""
    first = signature.inputs[0].shape
    label = batch_dimension(signature) or (first[0] if first else None)
    return frozenset(spec.name for spec in signature.inputs if spec.shape and spec.shape[0] == label)


def take_rows(arrays: Mapping[str, Array], batched: Collection[str], rows: Array) -> dict[str, Array]:
    """These rows of the batched inputs, and the other inputs as they are."""
    return {name: np.ascontiguousarray(array[rows]) if name in batched else array for name, array in arrays.items()}
