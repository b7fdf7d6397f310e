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

from runoff.models.manifest import Batch
from runoff.models.samples import batch_dimension
from runoff.types import Dim, Precision, Signature, TensorSpec

DEFAULT_OPSET = 20


class StepOptions(msgspec.Struct, frozen=True):
    """How to convert.

    Attributes:
        precision: what the result computes in.
        batch: `dynamic`, or the one batch size that the result is made for.
        opset: ONNX operator set of an ONNX result.
        sizes: example sizes of named dimensions other than the batch, such as {"sequence": 32}.
    """

    precision: Precision = Precision.FP32
    batch: Batch = "dynamic"
    opset: int = DEFAULT_OPSET
    sizes: dict[str, int] = {}


class Made(msgspec.Struct, frozen=True):
    """What a step made.

    Attributes:
        main_file: the file that a runtime is given, relative to the destination.
        tool: the converter, as the manifest's `made_by` names it.
        versions: versions of the libraries that had a part in it.
        requires: what the environment must have to open it.
        details: what else the manifest's `made_by` should say.
    """

    main_file: str
    tool: str
    versions: dict[str, str]
    requires: dict[str, Any] = {}
    details: dict[str, Any] = {}


def with_batch(signature: Signature, batch: Batch) -> Signature:
    """The signature with the batch dimension fixed, or as it is when the batch is dynamic."""
    name = batch_dimension(signature)
    if batch == "dynamic" or name is None:
        return signature
    fixed: dict[str, Dim] = {name: batch}

    def fix(spec: TensorSpec) -> TensorSpec:
        shape = tuple(fixed.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.shape)
        return TensorSpec(spec.name, spec.dtype, shape)

    return Signature(tuple(map(fix, signature.inputs)), tuple(map(fix, signature.outputs)))


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
