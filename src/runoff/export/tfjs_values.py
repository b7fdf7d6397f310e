"""The values of an ONNX graph while it becomes one of TensorFlow: constants, shapes, and in which layout each is there.

ONNX has images as NCHW, TensorFlow.js computes on NHWC. A value is turned only where someone asks for it in the other
layout, and once; what works element by element stays in the layout that its input is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np

from runoff.errors import ExportError
from runoff.export.tfjs_graph import Graph
from runoff.models.arrays import Array

TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)
Shape: TypeAlias = tuple[int | str, ...]


class Nhwc(msgspec.Struct, frozen=True):
    """The name of a node whose output is an image batch in NHWC."""

    name: str


Answer: TypeAlias = str | Nhwc | list[str]
"""What an operator's function answers: the node of its output, or those of all of its outputs."""


class Value(msgspec.Struct):
    """A value of the ONNX graph.

    Attributes:
        kind: of the dtype, as numpy names it: `f`, `i`, `b`; None where it is not known.
        shape: a name or `?` for a dimension that varies; None where not even the rank is known.
        plain: the node that has it as ONNX does, once there is one.
        nhwc: the node that has it as NHWC.
        constant: its content, where that is fixed.
    """

    name: str
    kind: str | None = None
    shape: Shape | None = None
    plain: str | None = None
    nhwc: str | None = None
    constant: Array | None = None


class Call(msgspec.Struct):
    """A node of the ONNX graph; an input that is left out is ''."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    def has(self, index: int) -> bool:
        """Whether an optional input is given."""
        return index < len(self.inputs) and bool(self.inputs[index])


class Values:
    """All values of a graph by name, on top of the graph that is being made."""

    def __init__(self, graph: Graph, values: dict[str, Value]) -> None:
        self.graph = graph
        self._values = values

    def __getitem__(self, name: str) -> Value:
        return self._values.setdefault(name, Value(name))

    def plain(self, name: str) -> str:
        """The node of a value in the layout of ONNX."""
        value = self[name]
        if value.plain is None:
            if value.constant is not None:
                value.plain = self.graph.constant(value.constant)
            elif value.nhwc is not None:
                value.plain = self.transpose(value.nhwc, TO_NCHW)
            else:
                raise ExportError(f"the graph uses {name!r} before it is computed")
        return value.plain

    def nhwc(self, name: str) -> str:
        """The node of an image batch in NHWC."""
        value = self[name]
        if value.nhwc is None:
            if value.constant is not None:
                value.nhwc = self.graph.constant(value.constant.transpose(TO_NHWC))
            else:
                value.nhwc = self.transpose(self.plain(name), TO_NHWC)
        return value.nhwc

    def is_image(self, name: str) -> bool:
        """Whether a value is there in NHWC and in no other layout."""
        value = self[name]
        return value.nhwc is not None and value.plain is None and value.constant is None

    def rank(self, name: str) -> int:
        """How many dimensions a value has.

        Raises:
            ExportError: that is not known.
        """
        value = self[name]
        if value.constant is not None:
            return value.constant.ndim
        if value.shape is None:
            raise ExportError(f"the graph does not say how many dimensions {name!r} has")
        return len(value.shape)

    def shape(self, name: str) -> Shape:
        """The shape of a value; see `Value.shape`."""
        self.rank(name)
        value = self[name]
        return value.constant.shape if value.constant is not None else (value.shape or ())

    def constant(self, call: Call, index: int) -> Array:
        """The content of an input that must be fixed.

        Raises:
            ExportError: it is computed.
        """
        value = self[call.inputs[index]]
        if value.constant is None:
            raise ExportError(f"input {index} of {call.op} is computed, and TensorFlow.js takes only a fixed one")
        return value.constant

    def axes(self, call: Call, index: int) -> tuple[int, ...] | None:
        """Axes as an attribute or, in newer operator sets, as an input; None where none are given."""
        if call.has(index):
            return tuple(int(axis) for axis in self.constant(call, index).reshape(-1))
        given = call.attributes.get("axes")
        return None if given is None else tuple(given)

    def integers(self, values: Sequence[int]) -> str:
        """A vector of integers as a constant."""
        return self.graph.constant(np.array(values, np.int32))

    def integer(self, value: int) -> str:
        """One integer as a constant."""
        return self.graph.constant(np.array(value, np.int32))

    def scalar(self, value: float) -> str:
        """One float as a constant."""
        return self.graph.constant(np.array(value, np.float32))

    def transpose(self, node: str, order: Sequence[int]) -> str:
        """A node with its axes in another order."""
        return self.graph.node("Transpose", (node, self.integers(order)))

    def elementwise(self, names: Sequence[str]) -> tuple[list[str], bool]:
        """The nodes of operands that are combined element by element, and whether they are in NHWC: as soon as one is
        there in NHWC only, and the others can follow.
        """
        if any(self.is_image(name) for name in names) and all(self._can_follow(name) for name in names):
            return [self._follow(name) for name in names], True
        return [self.plain(name) for name in names], False

    def _can_follow(self, name: str) -> bool:
        value = self[name]
        return (
            value.constant is not None or value.nhwc is not None or (value.shape is not None and len(value.shape) == 4)
        )

    def _follow(self, name: str) -> str:
        value = self[name]
        if value.constant is None or value.constant.ndim == 4:
            return self.nhwc(name)
        if value.constant.size == 1:
            return self.graph.constant(value.constant.reshape(()))
        whole = value.constant.reshape((1,) * (4 - value.constant.ndim) + value.constant.shape)
        return self.graph.constant(whole.transpose(TO_NHWC))
