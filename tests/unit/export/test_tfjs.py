"""ONNX to TensorFlow.js: each operator held against ONNX Runtime, in Node.js; what has no translation is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from fakes.javascript import javascript_cache
from runoff.backends.node import NodeProcess
from runoff.errors import ExportError
from runoff.export.pages import largest_error
from runoff.export.tfjs import convert
from runoff.export.tfjs_graph import MODEL_FILE, SHARD_BYTES
from runoff.models.arrays import Array, dtype_name
from runoff.types import Signature, TensorSpec

OPSET = 20


@pytest.fixture(scope="module", autouse=True)
def cache() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNOFF_CACHE", str(javascript_cache("tfjs")))
        yield


class Builder:
    """An ONNX graph in the making; every `node` is an output too."""

    def __init__(self, inputs: dict[str, tuple[Array, tuple[int | str, ...]]]) -> None:
        self.given = {name: array for name, (array, _) in inputs.items()}
        self.shapes = {name: shape for name, (_, shape) in inputs.items()}
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.outputs: list[str] = []

    def weight(self, array: Any, dtype: Any = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.weight(values, np.int64)

    def node(self, op: str, *inputs: str, count: int = 1, shown: bool = True, **attributes: Any) -> str:
        names = [f"{op}_{len(self.nodes)}_{index}" for index in range(count)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"the {names[0]}", **attributes))
        if shown:
            self.outputs += names
        return names[0]

    def model(self) -> onnx.ModelProto:
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), self.shapes[name])
            for name, array in self.given.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in self.outputs]
        graph = helper.make_graph(self.nodes, "g", inputs, outputs, self.weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        return onnx.shape_inference.infer_shapes(made, data_prop=True)


def _answers(builder: Builder, tmp_path: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """What TensorFlow.js and ONNX Runtime answer, by output."""
    model = builder.model()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = dict(zip(builder.outputs, session.run(builder.outputs, builder.given), strict=True))
    signature = Signature(
        tuple(TensorSpec(name, dtype_name(array.dtype), builder.shapes[name]) for name, array in builder.given.items()),
        tuple(TensorSpec(name, dtype_name(array.dtype), array.shape) for name, array in expected.items()),
    )
    convert(model, signature, tmp_path)
    process = NodeProcess("tfjs")
    try:
        opening = {
            "model": str(tmp_path / MODEL_FILE),
            "external": [str(path) for path in tmp_path.glob("*.bin")],
            "dtypes": {spec.name: spec.dtype.value for spec in signature.outputs},
        }
        process.call({"op": "open", **opening}, {})
        return process.call({"op": "run"}, builder.given), expected
    finally:
        process.close()


def _random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _elementwise() -> Builder:
    x, y = _random(2, 3, 4), _random(4, seed=1)
    b = Builder({"x": (x, ("n", 3, 4)), "y": (y, (4,)), "k": (np.array([[1], [5]], np.int64), ("n", 1))})
    positive = b.node("Abs", "x")
    for op in (
        "Relu",
        "Sigmoid",
        "Tanh",
        "Erf",
        "Exp",
        "Neg",
        "Floor",
        "Ceil",
        "Sin",
        "Cos",
        "Sign",
        "Softplus",
        "Elu",
    ):
        b.node(op, "x")
    for op in ("Sqrt", "Reciprocal", "Log", "Identity"):
        b.node(op, positive)
    for op in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
        b.node(op, "x", "y")
    b.node("Pow", positive, b.weight(1.5))
    b.node("Sum", "x", "y", "x")
    b.node("LeakyRelu", "x", alpha=0.3)
    b.node("PRelu", "x", b.weight([0.1, 0.2, 0.3, 0.4]))
    b.node("HardSigmoid", "x", alpha=0.3, beta=0.4)
    b.node("HardSwish", "x")
    b.node("Gelu", "x")
    b.node("Gelu", "x", approximate="tanh")
    b.node("Clip", "x", b.weight(-0.5), b.weight(0.25))
    b.node("Clip", "x", "", b.weight(0.25))
    less, more = b.node("Less", "x", "y"), b.node("GreaterOrEqual", "x", b.weight(0.5))
    either = b.node("Or", less, more)
    b.node("Not", b.node("And", less, more))
    b.node("Where", either, "x", "y")
    b.node("Cast", either, to=TensorProto.FLOAT)
    b.node("Cast", "x", to=TensorProto.INT32)
    b.node("Div", "k", b.ints(2))
    b.node("Equal", "k", b.ints(5))
    b.node("IsNaN", b.node("Div", b.weight(0.0), b.node("Mul", "y", b.weight(0.0), shown=False), shown=False))
    return b


def _matrices() -> Builder:
    b = Builder({"x": (_random(2, 5, 6), ("n", 5, 6)), "flat": (_random(3, 6, seed=1), (3, 6))})
    square = b.weight(_random(6, 4, seed=2))
    b.node("MatMul", "x", square)
    b.node("MatMul", "flat", square)
    b.node("MatMul", "x", b.node("Transpose", "x", perm=[0, 2, 1]))
    b.node("Gemm", "flat", b.weight(_random(4, 6)), b.weight(_random(4)), transB=1)
    b.node("Gemm", "flat", b.weight(_random(3, 4)), b.weight(_random(4)), transA=1, alpha=0.5, beta=2.0)
    b.node("Softmax", "x")
    b.node("Softmax", "x", axis=1)
    b.node("LogSoftmax", "x", axis=-1)
    b.node("LayerNormalization", "x", b.weight(_random(6)), b.weight(_random(6)), epsilon=1e-4)
    b.node("LayerNormalization", "x", b.weight(_random(5, 6)), axis=1)
    for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd"):
        b.node(op, "x", b.ints(-1), keepdims=0)
        b.node(op, "x", b.ints(0, 2))
    b.node("ReduceSum", "x", keepdims=0)
    b.node("ArgMax", "x", axis=-1, keepdims=0)
    b.node("ArgMax", "x", axis=1)
    b.node("CumSum", "x", b.weight(1, np.int64), reverse=1)
    b.node("BatchNormalization", "x", *(b.weight(np.abs(_random(5, seed=s)) + 0.5) for s in range(4)))
    return b


def _shapes() -> Builder:
    ids = np.array([[3, 0, 1], [2, 2, 3]], np.int64)
    b = Builder({"x": (_random(2, 3, 4), ("n", 3, 4)), "ids": (ids, ("n", "s"))})
    table = b.weight(_random(4, 5))
    b.node("Gather", table, "ids")
    b.node("Gather", "x", b.weight(-1, np.int64), axis=2)
    b.node("GatherND", "ids", b.weight([[0, 1], [1, 2]], np.int64))
    size = b.node("Shape", "x")
    b.node("Shape", "x", start=1)
    b.node("Reshape", "x", b.ints(0, -1))
    b.node("Reshape", "ids", b.ints(0, 0, 1))
    first = b.node("Slice", size, b.ints(0), b.ints(1))
    b.node("Reshape", "x", b.node("Concat", first, b.ints(-1), axis=0))
    b.node("Flatten", "x")
    b.node("Flatten", "x", axis=0)
    b.node("Unsqueeze", "x", b.ints(0, -1))
    b.node("Squeeze", b.node("Unsqueeze", "x", b.ints(1)), b.ints(1))
    b.node("Transpose", "x", perm=[2, 0, 1])
    b.node("Transpose", "x")
    b.node("Concat", "x", "x", axis=-1)
    b.node("Split", "x", b.ints(1, 3), axis=2, count=2)
    b.node("Split", "x", axis=1, num_outputs=3, count=3)
    b.node("Slice", "x", b.ints(1), b.ints(2**63 - 1), b.ints(2))
    b.node("Slice", "x", b.ints(-1), b.ints(-(2**63)), b.ints(1), b.ints(-1))
    b.node("Slice", "x", b.ints(0, 1), b.ints(2, -1), b.ints(1, 2), b.ints(1, 2))
    b.node("Slice", "x", b.ints(0), first, b.ints(1))
    b.node("Expand", "ids", b.node("Concat", b.ints(2), b.ints(1), b.ints(1), axis=0))
    b.node("Expand", b.node("Equal", "ids", b.ints(2)), b.ints(2, 2, 3))
    b.node("ConstantOfShape", size, value=numpy_helper.from_array(np.array([7], np.int64)))
    b.node("ConstantOfShape", size, value=numpy_helper.from_array(np.array([True])))
    count = b.node("Squeeze", first)
    b.node("Range", b.weight(0, np.int64), count, b.weight(1, np.int64))
    b.node("Pad", "x", b.ints(0, 1, 0, 2, 0, 1), b.weight(0.5))
    b.node("Tile", "x", b.ints(1, 2, 1))
    b.node("ReduceSum", "ids", b.ints(-1), keepdims=0)
    return b


def _images() -> Builder:
    b = Builder({"x": (_random(2, 4, 9, 8), ("n", 4, 9, 8))})
    conv = b.node("Conv", "x", b.weight(_random(6, 4, 3, 3)), b.weight(_random(6)), pads=[1, 0, 2, 1], strides=[2, 1])
    b.node("Conv", "x", b.weight(_random(6, 4, 3, 2)), dilations=[2, 1])
    b.node("Conv", "x", b.weight(_random(4, 1, 3, 3)), b.weight(_random(4)), group=4, pads=[1, 1, 1, 1])
    b.node("Conv", "x", b.weight(_random(8, 1, 3, 3)), group=4, strides=[2, 2])
    b.node("Conv", "x", b.weight(_random(6, 2, 1, 3)), b.weight(_random(6)), group=2)
    b.node("Conv", "x", b.weight(_random(2, 4, 3, 3)), auto_pad="SAME_UPPER", strides=[2, 2])
    b.node("Conv", "x", b.weight(_random(2, 4, 2, 2)), auto_pad="SAME_LOWER")
    b.node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    b.node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    b.node("AveragePool", "x", kernel_shape=[3, 2], strides=[2, 2])
    b.node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    b.node("GlobalAveragePool", conv)
    b.node("GlobalMaxPool", conv)
    b.node("BatchNormalization", conv, *(b.weight(np.abs(_random(6, seed=s)) + 0.5) for s in range(4)))
    b.node("Resize", "x", "", b.weight([1, 1, 2, 2]), mode="linear")
    b.node(
        "Resize",
        "x",
        "",
        b.weight([1, 1, 2, 3]),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    # What follows a convolution stays in its layout as far as it can, and must come out in that of ONNX.
    act = b.node("Relu", conv)
    b.node("Add", act, b.weight(_random(6, 1, 1)))
    b.node("Mul", act, b.node("Sigmoid", b.node("GlobalAveragePool", act)))
    b.node("Concat", act, conv, axis=1)
    b.node("Concat", act, conv, axis=2)
    b.node("Pad", act, b.ints(0, 0, 1, 2, 0, 1, 0, 0))
    b.node("ReduceMean", act, b.ints(2, 3), keepdims=0)
    b.node("ReduceMean", act, b.ints(1))
    b.node("Flatten", act)
    b.node("Reshape", act, b.ints(0, 6, -1))
    b.node("Transpose", act, perm=[0, 2, 3, 1])
    b.node("Where", b.node("Less", act, b.weight(0.5)), act, b.weight(0.0))
    b.node("Shape", act)
    return b


@pytest.mark.parametrize("build", [_elementwise, _matrices, _shapes, _images], ids=lambda build: build.__name__[1:])
def test_operators_answer_what_onnx_runtime_does(build: Callable[[], Builder], tmp_path: Path) -> None:
    builder = build()
    found, expected = _answers(builder, tmp_path)
    wrong = {}
    for name, right in expected.items():
        same = found[name].shape == right.shape and found[name].dtype == right.dtype
        if not same:
            wrong[name] = f"{found[name].dtype}{found[name].shape}, expected {right.dtype}{right.shape}"
        elif (error := largest_error({name: found[name]}, {name: right})) > 1e-5:
            wrong[name] = f"{error:.1e}"
    assert wrong == {}


def test_all_operators_without_a_translation_are_named_at_once(tmp_path: Path) -> None:
    b = Builder({"x": (_random(2, 3), (2, 3))})
    b.node("Det", b.node("Relu", "x"))
    b.node("Hardmax", "x")
    with pytest.raises(ExportError, match=r"no translation to TensorFlow\.js for Det, Hardmax") as caught:
        convert(b.model(), Signature((TensorSpec("x", dtype_name(np.dtype(np.float32)), (2, 3)),), ()), tmp_path)
    assert "--to web" in (caught.value.hint or "")


def _of(op: str, *weights: Any, **attributes: Any) -> Callable[[Builder], None]:
    def put(b: Builder) -> None:
        b.node(op, "x", *(b.weight(value, np.asarray(value).dtype) for value in weights), **attributes)

    return put


@pytest.mark.parametrize(
    ("put", "why"),
    [
        (_of("AveragePool", kernel_shape=[2, 2], pads=[1, 1, 0, 0]), "padding that does not count"),
        (_of("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]), "dilations"),
        (_of("Cast", to=TensorProto.DOUBLE), "Cast to another dtype"),
        (_of("Pad", np.zeros(8, np.int64), mode="reflect"), "other than by a constant"),
        (_of("Pad", -np.ones(8, np.int64)), "less than nothing"),
        (_of("MatMul", np.zeros(8, np.float32)), "MatMul of vectors"),
    ],
)
def test_form_of_an_operator_that_is_not_there_is_named(
    put: Callable[[Builder], None], why: str, tmp_path: Path
) -> None:
    b = Builder({"x": (_random(2, 3, 8, 8), (2, 3, 8, 8))})
    put(b)
    spec = TensorSpec("x", dtype_name(np.dtype(np.float32)), (2, 3, 8, 8))
    with pytest.raises(ExportError, match=f"the .*: .*{why}"):
        convert(b.model(), Signature((spec,), ()), tmp_path)


def test_constant_beyond_32_bits_is_refused(tmp_path: Path) -> None:
    b = Builder({"k": (np.ones(2, np.int64), (2,))})
    b.node("Mul", "k", b.ints(2**40))
    spec = TensorSpec("k", dtype_name(np.dtype(np.int64)), (2,))
    with pytest.raises(ExportError, match="does not fit 32 bits"):
        convert(b.model(), Signature((spec,), ()), tmp_path)


def test_weights_are_cut_into_shards(tmp_path: Path) -> None:
    b = Builder({"x": (_random(2, 1200), (2, 1200))})
    b.node("MatMul", "x", b.weight(_random(1200, 1200)))
    found, expected = _answers(b, tmp_path)
    assert largest_error(found, expected) < 2e-6
    sizes = sorted(path.stat().st_size for path in tmp_path.glob("*.bin"))
    assert sizes == [1200 * 1200 * 4 - SHARD_BYTES, SHARD_BYTES]
