"""ONNX files held against what TensorRT takes, by polygraphy: needs neither TensorRT nor a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conformance.builders import NETS, build
from fakes.packages import spec, write_onnx
from runoff.errors import ExportError
from runoff.export.trt_check import check_onnx
from runoff.types import DType, Precision, Signature

FP32, INT8 = Precision.FP32, Precision.INT8
PLAIN = Signature((spec("x", "batch", 4),), (spec("y", "batch", 4),))


def _graph(path: Path, *nodes: onnx.NodeProto, signature: Signature = PLAIN, **constants: Any) -> Path:
    return write_onnx(path / "model.onnx", nodes, signature, constants)


def _quantised(path: Path, zero: np.ndarray | None) -> Path:
    """x, quantised and back, with this zero point."""
    point = [] if zero is None else ["zero"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", *point], ["q"], "narrow"),
        helper.make_node("DequantizeLinear", ["q", "scale", *point], ["y"], "widen"),
    ]
    constants = {"scale": np.float32(0.1)} | ({} if zero is None else {"zero": zero})
    return _graph(path, *nodes, **constants)


@pytest.mark.parametrize("name", ["mlp", "conv", "pooler"])
def test_what_runoff_exports_is_taken(name: str, tmp_path: Path) -> None:
    path = build(tmp_path, NETS[name], "onnx").main_file
    assert check_onnx(path, FP32) == {"opset": 20, "narrowed": []}
    assert check_onnx(path, FP32, tensorrt_major=8)["narrowed"] == ([] if name == "mlp" else ["int64 to int32"])


def test_fused_operators_of_onnx_runtime_are_refused_by_name(tmp_path: Path) -> None:
    path = build(tmp_path, NETS["bert"], "onnx-fused").main_file
    with pytest.raises(ExportError, match=r"TensorRT does not take .*com\.microsoft\.Attention") as caught:
        check_onnx(path, FP32)
    assert caught.value.hint is not None


@pytest.mark.parametrize(("operator", "dtype"), [("BitwiseNot", DType.INT64), ("Bernoulli", DType.FP32)])
def test_unsupported_operator_is_refused_by_name(operator: str, dtype: DType, tmp_path: Path) -> None:
    signature = Signature((spec("x", "batch", 4, dtype=dtype),), (spec("y", "batch", 4, dtype=dtype),))
    path = _graph(tmp_path, helper.make_node(operator, ["x"], ["y"]), signature=signature)
    with pytest.raises(ExportError, match=f"(?m)TensorRT does not take {operator}$"):
        check_onnx(path, FP32)


def test_every_unsupported_operator_is_named_once_and_those_in_branches_too(tmp_path: Path) -> None:
    def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph(list(nodes), name, [], [output])

    unique = helper.make_node("Unique", ["x"], ["then_out"])
    compress = helper.make_node("Compress", ["x", "condition"], ["else_out"])
    node = helper.make_node(
        "If", ["flag"], ["y"], then_branch=branch("then", unique), else_branch=branch("else", compress)
    )
    open_ended = Signature(PLAIN.inputs, (spec("y", "m", "n"),))
    path = _graph(
        tmp_path, node, signature=open_ended, flag=np.bool_(1), condition=np.array([True, False, True, False])
    )
    with pytest.raises(ExportError, match=r"(?m)TensorRT does not take (Unique, Compress|Compress, Unique)$"):
        check_onnx(path, FP32)


def test_indices_of_max_pool_are_refused(tmp_path: Path) -> None:
    signature = Signature((spec("x", 1, 1, 4, 4),), (spec("y", 1, 1, 2, 2), spec("i", 1, 1, 2, 2, dtype=DType.INT64)))
    node = helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2], strides=[2, 2])
    with pytest.raises(ExportError, match="the indices of MaxPool"):
        check_onnx(_graph(tmp_path, node, signature=signature), FP32)


@pytest.mark.parametrize("dtype", [DType.FP64, DType.STRING])
def test_inputs_and_outputs_that_an_engine_cannot_have_are_refused(dtype: DType, tmp_path: Path) -> None:
    signature = Signature((spec("x", 2, dtype=dtype),), (spec("y", 2, dtype=dtype),))
    path = _graph(tmp_path, helper.make_node("Identity", ["x"], ["y"]), signature=signature)
    with pytest.raises(ExportError, match=r"(?m)an engine has no such inputs and outputs: 'x' of \w+, 'y' of \w+$"):
        check_onnx(path, FP32)


def test_double_precision_inside_is_noted(tmp_path: Path) -> None:
    nodes: Sequence[onnx.NodeProto] = (
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["wide", "c"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["y"], to=TensorProto.FLOAT),
    )
    path = _graph(tmp_path, *nodes, c=numpy_helper.from_array(np.array(2.0), "c"))
    assert check_onnx(path, FP32)["narrowed"] == ["fp64 to fp32"]


def test_symmetric_int8_graph_is_taken(tmp_path: Path) -> None:
    path = _quantised(tmp_path, np.int8(0))
    assert check_onnx(path, INT8)["narrowed"] == []
    with pytest.raises(ExportError, match="the file is quantised, and an engine at fp16"):
        check_onnx(path, Precision.FP16)


@pytest.mark.parametrize(
    ("zero", "why"),
    [
        (np.int8(3), "narrow has a zero point other than 0, widen has"),
        (np.uint8(0), "narrow is uint8, widen is uint8"),
        (None, "narrow is uint8$"),
    ],
)
def test_zero_point_that_tensorrt_does_not_take_is_refused(zero: np.ndarray | None, why: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"(?m)signed integers around zero only: {why}") as caught:
        check_onnx(_quantised(tmp_path, zero), INT8)
    assert "--symmetric" in (caught.value.hint or "")


def test_graph_without_ranges_makes_no_int8_engine(tmp_path: Path) -> None:
    path = build(tmp_path, NETS["mlp"], "onnx").main_file
    with pytest.raises(ExportError, match="no QuantizeLinear nodes"):
        check_onnx(path, INT8)


@pytest.mark.parametrize("content", [b"", b"\x08\x08garbage", b"\xff" * 64])
def test_file_that_is_no_onnx_is_refused_in_words(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError):
        check_onnx(path, FP32)


def test_weights_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 16)
    (tmp_path / "m").mkdir()
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    path = _graph(tmp_path / "m", helper.make_node("Add", ["x", "c"], ["y"]), c=tensor)
    with pytest.raises(ExportError, match="is not valid ONNX"):
        check_onnx(path, FP32)
