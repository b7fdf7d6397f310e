"""The openvino backend where it differs from the others: precision hints, streams, the pool of requests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import openvino as ov
import pytest
from onnx import helper

from fakes.packages import file_package, spec, write_onnx
from runoff.backends import table
from runoff.backends.protocol import Session, SessionOptions
from runoff.errors import FormatMismatch, RuntimeLoadError, RuntimeRunError
from runoff.models.folder import Package
from runoff.types import Device, DType, Precision, Signature

CAPABILITIES = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
PLAIN = Signature((spec("x", "batch", 4),), (spec("y", "batch", 3),))
MATMUL = helper.make_node("MatMul", ["x", "w"], ["y"])
ONES = {"w": np.ones((4, 3), np.float32)}
X = np.ones((2, 4), np.float32)


def _package(path: Path, signature: Signature = PLAIN, precision: Precision = Precision.FP32) -> Package:
    return file_package(path, signature, backend="openvino", format_id="onnx", precision=precision)


@pytest.fixture
def plain(tmp_path: Path) -> Package:
    return _package(write_onnx(tmp_path / "model.onnx", [MATMUL], PLAIN, ONES))


def _open(package: Package, precision: Any = None, **options: Any) -> Session:
    return table.backend("openvino").open(package, SessionOptions(precision=precision, backend=options))


def test_fp32_is_fp32_and_default_says_what_it_is(plain: Package) -> None:
    assert _open(plain).facts["precision"] == "fp32"
    left_alone = ov.Core().compile_model(str(plain.main_file), "CPU").get_property("INFERENCE_PRECISION_HINT")
    names = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}
    assert _open(plain, "default").facts["precision"] == names[left_alone.to_string()]


@pytest.mark.skipif("FP16" in CAPABILITIES, reason="this CPU computes in fp16")
def test_fp16_that_the_device_lacks_is_refused_when_asked_for(plain: Package) -> None:
    with pytest.raises(RuntimeLoadError, match=r"computes in \w+ on CPU here where fp16 was asked for"):
        _open(plain, Precision.FP16)


@pytest.mark.skipif("FP16" in CAPABILITIES, reason="this CPU computes in fp16")
def test_fp16_package_runs_in_fp32_when_the_device_lacks_fp16(tmp_path: Path) -> None:
    signature = Signature((spec("x", "batch", 4, dtype=DType.FP16),), (spec("y", "batch", 3, dtype=DType.FP16),))
    path = write_onnx(tmp_path / "model.onnx", [MATMUL], signature, {"w": np.ones((4, 3), np.float16)})
    session = _open(_package(path, signature, Precision.FP16))
    assert session.facts["precision"] == "fp32"
    output = session.run({"x": X.astype(np.float16)})["y"]
    assert (output.dtype, output[0, 0]) == (np.float16, 4)


def test_quantised_precision_is_no_hint(plain: Package) -> None:
    with pytest.raises(RuntimeLoadError, match="not int8"):
        _open(plain, Precision.INT8)


def test_bf16_arrays_pass_both_ways(tmp_path: Path) -> None:
    bf16 = Signature((spec("x", "batch", 3, dtype=DType.BF16),), (spec("y", "batch", 3, dtype=DType.BF16),))
    path = write_onnx(tmp_path / "model.onnx", [helper.make_node("Abs", ["x"], ["y"])], bf16)
    session = _open(_package(path, bf16, Precision.BF16))
    output = session.run({"x": np.array([[-1, 2.5, 3]], ml_dtypes.bfloat16)})["y"]
    assert output.dtype == ml_dtypes.bfloat16
    assert output.astype(np.float32).tolist() == [[1, 2.5, 3]]


def test_int_and_bool_arrays_pass(tmp_path: Path) -> None:
    signature = Signature(
        (spec("k", "batch", "n", dtype=DType.INT64), spec("b", "batch", dtype=DType.BOOL)),
        (spec("l", "batch", "n", dtype=DType.INT64), spec("c", "batch", dtype=DType.BOOL)),
    )
    nodes = [helper.make_node("Abs", ["k"], ["l"]), helper.make_node("Not", ["b"], ["c"])]
    package = _package(write_onnx(tmp_path / "model.onnx", nodes, signature), signature)
    outputs = _open(package).run({"k": np.array([[-(2**40), 1]]), "b": np.array([True])})
    # int64 is int32 inside OpenVINO's CPU plug-in, so large integers are its business, small ones ours.
    assert (outputs["l"].dtype, outputs["l"][0, 1]) == (np.int64, 1)
    assert outputs["c"].tolist() == [False]


def test_streams_and_hint_are_those_asked_for(plain: Package) -> None:
    session = _open(plain, num_streams=2, performance_hint="throughput")
    assert (session.facts["streams"], session.facts["performance_hint"]) == (2, "throughput")


def test_cache_holds_the_compiled_model(plain: Package, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for _ in range(2):
        np.testing.assert_array_equal(_open(plain, cache_dir=str(cache)).run({"x": X})["y"], np.full((2, 3), 4))
    assert any(cache.iterdir())


def test_names_of_the_signature_win_over_those_of_the_file(plain: Package) -> None:
    renamed = Signature((spec("image", "batch", 4),), (spec("scores", "batch", 3),))
    session = _open(_package(plain.main_file, renamed))
    np.testing.assert_array_equal(session.run({"image": X})["scores"], np.full((2, 3), 4))


def test_inputs_are_found_by_name_when_the_signature_has_another_order(tmp_path: Path) -> None:
    inputs = (spec("a", "batch", 3), spec("b", "batch", 3))
    written = Signature(inputs, (spec("y", "batch", 3),))
    path = write_onnx(tmp_path / "model.onnx", [helper.make_node("Sub", ["a", "b"], ["y"])], written)
    session = _open(_package(path, Signature(inputs[::-1], written.outputs)))
    two, one = np.full((1, 3), 2, np.float32), np.ones((1, 3), np.float32)
    assert session.run({"a": two, "b": one})["y"].tolist() == [[1, 1, 1]]


def test_other_number_of_outputs_is_refused(plain: Package) -> None:
    signature = Signature(PLAIN.inputs, (*PLAIN.outputs, spec("z", 1)))
    with pytest.raises(RuntimeLoadError, match="has 1 inputs and 1 outputs, the signature 1 and 2"):
        _open(_package(plain.main_file, signature))


def test_failure_while_computing_is_a_run_error(tmp_path: Path) -> None:
    signature = Signature((spec("x", "batch", "n"),), (spec("y", "batch", "n"),))
    add = helper.make_node("Add", ["x", "w"], ["y"])
    path = write_onnx(tmp_path / "model.onnx", [add], signature, {"w": np.ones(4, np.float32)})
    session = _open(_package(path, signature))
    with pytest.raises(RuntimeRunError, match="OpenVINO failed while computing") as caught:
        session.run({"x": np.ones((2, 5), np.float32)})
    assert caught.value.__cause__ is not None
    np.testing.assert_array_equal(session.run({"x": X})["y"], X + 1)


def test_many_threads_get_their_own_answers(plain: Package) -> None:
    session = _open(plain, num_streams=2)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda value: session.run({"x": X * value})["y"][0, 0], range(200)))
    assert answers == [4.0 * value for value in range(200)]


def test_device_that_is_not_there_lists_those_that_are(plain: Package) -> None:
    with pytest.raises(RuntimeLoadError, match="there is no device gpu:7: OpenVINO sees CPU"):
        table.backend("openvino").open(plain, SessionOptions(device=Device("gpu", 7)))


@pytest.mark.parametrize("name", ["model.xml", "model.onnx"])
def test_file_that_is_no_model_has_no_signature(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"nothing")
    with pytest.raises(FormatMismatch, match="OpenVINO cannot read"):
        table.backend("openvino").read_signature("openvino", path)


def test_dimensions_without_names_get_some(tmp_path: Path) -> None:
    signature = Signature((spec("a", "n", "m", 2), spec("b", "n", "m", 2)), (spec("y", "n", "m", 2),))
    path = write_onnx(tmp_path / "model.onnx", [helper.make_node("Add", ["a", "b"], ["y"])], signature)
    read = table.backend("openvino").read_signature("onnx", path)
    assert [part.shape for part in read.inputs] == [("batch", "a_dim_1", 2), ("batch", "b_dim_1", 2)]
