"""The words of Runoff as frozen values: dtypes, precisions, devices, tensor specs and signatures.

Knows no numpy, no files and no runtime: this module can be imported anywhere at no cost.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import msgspec


class DType(StrEnum):
    """The element type of a tensor."""

    FP64 = "fp64"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT64 = "int64"
    INT32 = "int32"
    INT16 = "int16"
    INT8 = "int8"
    UINT64 = "uint64"
    UINT32 = "uint32"
    UINT16 = "uint16"
    UINT8 = "uint8"
    BOOL = "bool"
    STRING = "string"


class Precision(StrEnum):
    """The arithmetic that a package or a session computes its heavy layers in."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"
    INT4 = "int4"


Dim: TypeAlias = int | str
"""A fixed dimension, or the name of a dynamic one such as `batch`."""


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One named input or output: dtype and shape. A string in the shape names a dynamic dimension."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(str(dim) for dim in self.shape)}]"


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The named inputs and outputs of a model, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Device(msgspec.Struct, frozen=True):
    """Where a session runs: a kind (`cpu`, `cuda`, `gpu`, `npu`, `mps`) and, where there are several, an index."""

    kind: str = "cpu"
    index: int | None = None

    def __str__(self) -> str:
        return self.kind if self.index is None else f"{self.kind}:{self.index}"


CPU = Device("cpu")
