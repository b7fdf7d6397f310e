"""A graph model of TensorFlow.js in the making: its nodes, its weights, and the files that they become.

Knows the format, TensorFlow's GraphDef as JSON beside shards of raw weights, and nothing of where a graph comes from.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from runoff.errors import ExportError
from runoff.models.arrays import Array
from runoff.types import DType, Signature, TensorSpec

MODEL_FILE = "model.json"
SHARD_BYTES = 4 * 2**20
"""What a browser caches as one file; the size that TensorFlow's own converter takes."""
TYPES = {DType.FP32: "DT_FLOAT", DType.INT32: "DT_INT32", DType.INT64: "DT_INT32", DType.BOOL: "DT_BOOL"}
_WEIGHT_TYPES = {"f": "float32", "i": "int32", "b": "bool"}
_GRAPH_TYPES = {"f": "DT_FLOAT", "i": "DT_INT32", "b": "DT_BOOL"}


def text(value: str) -> dict[str, Any]:
    """A string attribute: bytes, and so base64 in JSON."""
    return {"s": base64.b64encode(value.encode()).decode()}


def texts(values: Iterable[str]) -> dict[str, Any]:
    """A list of strings as an attribute."""
    return {"list": {"s": [base64.b64encode(value.encode()).decode() for value in values]}}


def whole(value: int) -> dict[str, Any]:
    """An integer attribute: 64 bits, and so text in JSON."""
    return {"i": str(value)}


def wholes(values: Iterable[int]) -> dict[str, Any]:
    """A list of integers as an attribute."""
    return {"list": {"i": [str(value) for value in values]}}


def number(value: float) -> dict[str, Any]:
    """A float attribute."""
    return {"f": value}


def flag(*, value: bool) -> dict[str, Any]:
    """A boolean attribute."""
    return {"b": value}


def dtype(value: str) -> dict[str, Any]:
    """A type such as `DT_FLOAT` as an attribute."""
    return {"type": value}


def dims(shape: Sequence[int | str]) -> dict[str, Any]:
    """A shape in the form of TensorFlow; -1 where a dimension varies."""
    return {"dim": [{"size": str(dim if isinstance(dim, int) else -1)} for dim in shape]}


class Graph:
    """Nodes in the order of computation, and the weights that some of them are."""

    def __init__(self) -> None:
        self._nodes: list[dict[str, Any]] = []
        self._weights: dict[str, Array] = {}

    def placeholder(self, spec: TensorSpec) -> str:
        """An input; answers its name.

        Raises:
            ExportError: TensorFlow.js has no such dtype.
        """
        if spec.dtype not in TYPES:
            raise ExportError(f"TensorFlow.js has no input of dtype {spec.dtype}, which {spec.name!r} is")
        name = f"input_{len(self._nodes)}"
        self._add(name, "Placeholder", (), {"dtype": dtype(TYPES[spec.dtype]), "shape": {"shape": dims(spec.shape)}})
        return name

    def constant(self, array: Array) -> str:
        """A weight, narrowed to 32 bits; answers its name.

        Raises:
            ExportError: of another dtype, or a number does not fit 32 bits.
        """
        narrow = _narrowed(array)
        name = f"weight_{len(self._weights)}"
        self._weights[name] = narrow
        kind = _GRAPH_TYPES[narrow.dtype.kind]
        # TensorFlow.js takes the value from the weights by name.
        value = {"tensor": {"dtype": kind, "tensorShape": dims(narrow.shape)}}
        self._add(name, "Const", (), {"dtype": dtype(kind), "value": value})
        return name

    def node(self, op: str, inputs: Sequence[str], attributes: Mapping[str, Any] | None = None) -> str:
        """An operation of TensorFlow; answers the name of its first output, the others have `:1`, `:2`, ... behind."""
        name = f"{op.lower().strip('_')}_{len(self._nodes)}"
        self._add(name, op, inputs, {"T": dtype("DT_FLOAT"), **(attributes or {})})
        return name

    def _add(self, name: str, op: str, inputs: Sequence[str], attributes: Mapping[str, Any]) -> None:
        self._nodes.append({"name": name, "op": op, "input": list(inputs), "attr": dict(attributes)})

    def save(
        self, folder: Path, signature: Signature, places: tuple[Mapping[str, str], Mapping[str, str]], made_by: str
    ) -> None:
        """Write `model.json` and the shards of the weights.

        Args:
            folder: where they go.
            signature: the model's.
            places: by the signature's names, the nodes of the inputs and of the outputs.
            made_by: what made it, for the file.
        """
        data = b"".join(np.ascontiguousarray(array).tobytes() for array in self._weights.values())
        count = max(1, -(-len(data) // SHARD_BYTES))
        names = [f"group1-shard{number}of{count}.bin" for number in range(1, count + 1)]
        for index, name in enumerate(names):
            (folder / name).write_bytes(data[index * SHARD_BYTES : (index + 1) * SHARD_BYTES])
        weights = [
            {"name": name, "shape": list(array.shape), "dtype": _WEIGHT_TYPES[array.dtype.kind]}
            for name, array in self._weights.items()
        ]
        described = {
            kind: {spec.name: _told(spec, nodes[spec.name]) for spec in specs}
            for kind, specs, nodes in (
                ("inputs", signature.inputs, places[0]),
                ("outputs", signature.outputs, places[1]),
            )
        }
        model = {
            "format": "graph-model",
            "generatedBy": made_by,
            "convertedBy": made_by,
            "signature": described,
            "modelTopology": {"node": self._nodes, "library": {}, "versions": {"producer": 1}},
            "weightsManifest": [{"paths": names, "weights": weights}],
        }
        (folder / MODEL_FILE).write_bytes(msgspec.json.encode(model))


def _told(spec: TensorSpec, node: str) -> dict[str, Any]:
    if spec.dtype not in TYPES:
        raise ExportError(f"TensorFlow.js has no output of dtype {spec.dtype}, which {spec.name!r} is")
    name = node if ":" in node else f"{node}:0"
    return {"name": name, "dtype": TYPES[spec.dtype], "tensorShape": dims(spec.shape)}


def _narrowed(array: Array) -> Array:
    if array.dtype == np.float32 or array.dtype == np.bool_:
        return array
    if array.dtype.kind in "iu":
        narrow = array.astype(np.int32)
        if not np.array_equal(narrow, array):
            raise ExportError("a constant of the model has an integer that does not fit 32 bits")
        return narrow
    raise ExportError(f"TensorFlow.js has no constants of dtype {array.dtype}")
