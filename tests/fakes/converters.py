"""Conversions that go wrong, as rows of the plan and as the functions that they name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import msgspec
import numpy as np

from runoff.export.conversions import STEPS, Step
from runoff.export.step import Made, StepOptions
from runoff.models.folder import Package
from runoff.types import Precision


def crash(source: Package, destination: Path, options: StepOptions) -> Made:
    """Die as a converter with a bug in its native code does, half-way through its file."""
    (destination / "model.onnx").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def hang(source: Package, destination: Path, options: StepOptions) -> Made:
    """Never come back, half-way through the file."""
    (destination / "model.onnx").write_bytes(b"half")
    while True:
        time.sleep(60)


def hog(source: Package, destination: Path, options: StepOptions) -> Made:
    """Take more and more memory, then never come back."""
    kept = [np.ones(2**26, np.uint8) for _ in range(10)]
    time.sleep(60)
    raise AssertionError(len(kept))


def lie(source: Package, destination: Path, options: StepOptions) -> Made:
    """Claim a file that was not written."""
    return Made("model.onnx", "liar", {})


def garbage(source: Package, destination: Path, options: StepOptions) -> Made:
    """Write a file that no runtime opens."""
    (destination / "model.onnx").write_bytes(b"not a model")
    return Made("model.onnx", "scribbler", {})


def not_a_number(source: Package, destination: Path, options: StepOptions) -> Made:
    """Write a model that answers NaN."""
    _write(source, destination, float("nan"))
    return Made("model.onnx", "divider", {})


def _write(source: Package, destination: Path, value: float) -> None:
    import onnx
    from onnx import TensorProto, helper

    given, wanted = source.signature.inputs[0], source.signature.outputs[0]
    weights = helper.make_tensor("w", TensorProto.FLOAT, (given.shape[1], wanted.shape[1]), [value] * 12)
    graph = helper.make_graph(
        [helper.make_node("MatMul", [given.name, "w"], [wanted.name])],
        "g",
        [helper.make_tensor_value_info(given.name, TensorProto.FLOAT, given.shape)],
        [helper.make_tensor_value_info(wanted.name, TensorProto.FLOAT, wanted.shape)],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, destination / "model.onnx")


def step(name: str) -> Step:
    """The row of one of the functions above: from torch-export to onnx."""
    row = next(row for row in STEPS if (row.source_format, row.target_format) == ("torch-export", "onnx"))
    return msgspec.structs.replace(row, target=f"fakes.converters:{name}", libraries=())


def only(name: str) -> tuple[Step, ...]:
    """Steps among which one of the functions above is the only way to fp32 ONNX."""
    return (step(name), *(row for row in STEPS if row.result != ("onnx", Precision.FP32)))
