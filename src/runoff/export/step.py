"""What a conversion is handed and what it answers: the seam between the worker and the files per format.

Knows no runtime and no plan. A step writes files into an empty folder and answers facts; digests, manifest
and clean-up are the caller's.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from runoff.models.dimensions import named_dimensions, with_sizes
from runoff.models.dimensions import with_batch as with_batch
from runoff.models.manifest import Batch
from runoff.models.samples import DEFAULT_SIZE, DEFAULT_SIZES
from runoff.types import Precision, Signature

DEFAULT_OPSET = 20


class Control(msgspec.Struct, frozen=True):
    """Labelled rows for a quantiser that keeps layers back by itself.

    Attributes:
        inputs: .npz of inputs by name.
        labels: .npy of one integer a row.
        task: whose metric counts.
        max_drop: how much of the metric may be lost, as a fraction.
    """

    inputs: str
    labels: str
    task: str
    max_drop: float


class Quantization(msgspec.Struct, frozen=True):
    """How to quantise.

    Attributes:
        calibration: how ranges are read from the data: `minmax`, `entropy` or `percentile`.
        data: .npz of calibration rows; None for methods without calibration.
        batched: the inputs that have a row for each sample.
        kept: layers that stay in the precision of the source, by the names of `Made.layers`.
        reduce_range: 7 bits for weights, where the processor adds pairs of 8-bit products in 16 bits.
        control: labelled rows, for the quantiser's own accuracy control.
        symmetric: signed activations around zero and sums in fp32, the only kind that TensorRT takes.
    """

    calibration: str = "minmax"
    data: str | None = None
    batched: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    reduce_range: bool = False
    control: Control | None = None
    symmetric: bool = False


class StepOptions(msgspec.Struct, frozen=True):
    """How to convert.

    Attributes:
        precision: what the result computes in.
        batch: `dynamic`, or the one batch size that the result is made for.
        opset: ONNX operator set of an ONNX result.
        sizes: example sizes of named dimensions other than the batch, such as {"sequence": 32}.
        quantization: for steps that quantise.
    """

    precision: Precision = Precision.FP32
    batch: Batch = "dynamic"
    opset: int = DEFAULT_OPSET
    sizes: dict[str, int] = {}
    quantization: Quantization | None = None


class Made(msgspec.Struct, frozen=True):
    """What a step made.

    Attributes:
        main_file: the file that a runtime is given, relative to the destination.
        tool: the converter, as the manifest's `made_by` names it.
        versions: versions of the libraries that had a part in it.
        requires: what the environment must have to open it.
        layers: the layers that a quantiser can quantise, in the order of the graph.
        kept: those of them that it left in the precision of the source.
        details: what else the manifest's `made_by` should say.
    """

    main_file: str
    tool: str
    versions: dict[str, str]
    requires: dict[str, Any] = {}
    layers: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    details: dict[str, Any] = {}


def with_all_sizes(signature: Signature, options: StepOptions) -> tuple[Signature, dict[str, int]]:
    """For a format without dynamic dimensions: the signature with all of its inputs' fixed.

    Returns:
        The signature, and the size of each named dimension other than the batch: as asked for, else as the
        generator of inputs takes it.
    """
    batched = with_batch(signature, options.batch)
    known = {**DEFAULT_SIZES, **options.sizes}
    sizes = {name: known.get(name, DEFAULT_SIZE) for name in named_dimensions(batched)}
    return with_sizes(batched, sizes), sizes


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the converters' warnings and log lines; what matters comes as an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
