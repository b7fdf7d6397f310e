"""The onnx backend where it differs from the others: providers, precisions of the file, names, and what it may read."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from fakes.packages import file_package, spec, write_onnx
from runoff.backends import table
from runoff.backends.protocol import Session, SessionOptions
from runoff.errors import FormatMismatch, RuntimeLoadError, RuntimeRunError, UnknownName
from runoff.models.folder import Package
from runoff.types import Device, DType, Precision, Signature

PLAIN = Signature((spec("x", "batch", 4),), (spec("y", "batch", 3),))
MATMUL = helper.make_node("MatMul", ["x", "w"], ["y"])
ONES = {"w": np.ones((4, 3), np.float32)}
X = np.ones((2, 4), np.float32)


def _package(path: Path, signature: Signature = PLAIN, precision: Precision = Precision.FP32) -> Package:
    return file_package(path, signature, backend="onnx", format_id="onnx", precision=precision)


def _open(package: Package, device: Device | None = None, **options: Any) -> Session:
    return table.backend("onnx").open(package, SessionOptions(device=device or Device("cpu"), backend=options))


@pytest.fixture
def plain(tmp_path: Path) -> Package:
    return _package(write_onnx(tmp_path / "model.onnx", [MATMUL], PLAIN, ONES))


def test_provider_that_does_not_exist_is_refused(plain: Package) -> None:
    with pytest.raises(UnknownName, match=r"unknown execution provider 'CudaProvider'; known: .*CPUExecutionProvider"):
        _open(plain, providers=["CudaProvider"])


def test_provider_that_this_build_lacks_is_refused(plain: Package) -> None:
    with pytest.raises(RuntimeLoadError, match=r"no execution provider TensorrtExecutionProvider; it has .*CPUExec"):
        _open(plain, providers=["TensorrtExecutionProvider", "CPUExecutionProvider"])


@pytest.mark.parametrize("entry", [1, ["CPUExecutionProvider"], ("CPUExecutionProvider", 1), (1, {})])
def test_provider_of_another_shape_is_refused(plain: Package, entry: object) -> None:
    with pytest.raises(UnknownName, match="takes names and"):
        _open(plain, providers=[entry])


def test_empty_list_of_providers_is_refused(plain: Package) -> None:
    with pytest.raises(UnknownName, match="is empty"):
        _open(plain, providers=[])


@pytest.mark.parametrize("entry", [("CPUExecutionProvider", {"use_arena": "0"}), ["CPUExecutionProvider", {}]])
def test_provider_with_options_opens(plain: Package, entry: Any) -> None:
    session = _open(plain, providers=[entry])
    assert session.facts["providers"] == ["CPUExecutionProvider"]
    np.testing.assert_array_equal(session.run({"x": X})["y"], np.full((2, 3), 4))


@pytest.mark.parametrize("kind", ["cuda", "gpu", "npu"])
def test_device_without_a_provider_is_refused(plain: Package, kind: str) -> None:
    with pytest.raises(RuntimeLoadError, match=f"no execution provider for device {kind}"):
        _open(plain, Device(kind))


def test_opening_is_silent(plain: Package, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _open(plain).run({"x": X})
        with pytest.raises(RuntimeLoadError):
            _open(plain, providers=["CUDAExecutionProvider"])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "options",
    [{"graph_optimization": "off"}, {"inter_op_num_threads": 2}, {"allow_spinning": False}, {"io_binding": True}],
)
def test_options_leave_the_answer_alone(plain: Package, options: dict[str, Any]) -> None:
    np.testing.assert_array_equal(_open(plain, **options).run({"x": X})["y"], np.full((2, 3), 4))


def test_precision_other_than_the_files_is_refused(plain: Package) -> None:
    with pytest.raises(RuntimeLoadError, match="which is fp32, not bf16"):
        table.backend("onnx").open(plain, SessionOptions(precision=Precision.BF16))


def test_bf16_without_kernels_tells_why(tmp_path: Path) -> None:
    signature = Signature((spec("x", "batch", 4, dtype=DType.BF16),), (spec("y", "batch", 3, dtype=DType.BF16),))
    weight = helper.make_tensor("w", TensorProto.BFLOAT16, [4, 3], np.ones(12).tolist())
    path = write_onnx(tmp_path / "model.onnx", [MATMUL], signature, {"w": weight})
    with pytest.raises(RuntimeLoadError, match="Could not find an implementation for MatMul") as caught:
        _open(_package(path, signature, Precision.BF16))
    assert "no kernels for some operators in bf16" in str(caught.value.hint)


def test_bf16_arrays_pass_both_ways(tmp_path: Path) -> None:
    bf16 = Signature(
        (spec("x", "batch", 3, dtype=DType.BF16), spec("k", "batch", dtype=DType.INT64)),
        (spec("y", "batch", 3, dtype=DType.BF16), spec("l", "batch", dtype=DType.INT64)),
    )
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["k"], ["l"])]
    session = _open(_package(write_onnx(tmp_path / "model.onnx", nodes, bf16), bf16, Precision.BF16))
    wide = np.arange(12, dtype=np.float32).reshape(2, 6).astype(ml_dtypes.bfloat16)
    outputs = session.run({"x": wide[:, ::2], "k": np.array([1, 2])})
    assert outputs["y"].dtype == ml_dtypes.bfloat16
    assert outputs["y"].astype(np.float32).tolist() == [[0, 2, 4], [6, 8, 10]]
    assert outputs["l"].tolist() == [1, 2]
    assert session.facts["io_binding"]


def test_strings_and_bools_pass(tmp_path: Path) -> None:
    signature = Signature(
        (spec("s", "batch", dtype=DType.STRING), spec("b", "batch", dtype=DType.BOOL)),
        (spec("t", "batch", dtype=DType.STRING), spec("c", "batch", dtype=DType.BOOL)),
    )
    nodes = [helper.make_node("Identity", ["s"], ["t"]), helper.make_node("Not", ["b"], ["c"])]
    session = _open(_package(write_onnx(tmp_path / "model.onnx", nodes, signature), signature))
    outputs = session.run({"s": np.array(["ä", "b"]), "b": np.array([True, False])})
    assert (outputs["t"].tolist(), outputs["c"].tolist()) == (["ä", "b"], [False, True])


def test_names_of_the_signature_win_over_those_of_the_file(plain: Package) -> None:
    renamed = Signature((spec("image", "batch", 4),), (spec("scores", "batch", 3),))
    session = _open(_package(plain.main_file, renamed))
    np.testing.assert_array_equal(session.run({"image": X})["scores"], np.full((2, 3), 4))


def test_other_number_of_inputs_is_refused(plain: Package) -> None:
    signature = Signature((*PLAIN.inputs, spec("z", 1)), PLAIN.outputs)
    with pytest.raises(RuntimeLoadError, match=r"has 1 inputs \(x\), the signature 2 \(x, z\)"):
        _open(_package(plain.main_file, signature))


def test_failure_while_computing_is_a_run_error(tmp_path: Path) -> None:
    signature = Signature((spec("x", "batch", "n"),), PLAIN.outputs)
    session = _open(_package(write_onnx(tmp_path / "model.onnx", [MATMUL], signature, ONES), signature))
    with pytest.raises(RuntimeRunError, match="ONNX Runtime failed while computing: Non-zero status") as caught:
        session.run({"x": np.ones((2, 5), np.float32)})
    assert caught.value.__cause__ is not None
    assert caught.value.hint
    np.testing.assert_array_equal(session.run({"x": X})["y"], np.full((2, 3), 4))


def test_unnamed_dimensions_get_names(tmp_path: Path) -> None:
    shape: Any = (None, None, 2)
    signature = Signature((spec("a", *shape), spec("b", *shape)), (spec("y", "rows", 2),))
    nodes = [
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("ReduceSum", ["c", "axes"], ["y"], keepdims=0),
    ]
    path = write_onnx(tmp_path / "model.onnx", nodes, signature, {"axes": np.array([1])})
    read = table.backend("onnx").read_signature("onnx", path)
    assert [part.shape for part in read.inputs] == [("batch", "a_dim_1", 2), ("batch", "b_dim_1", 2)]
    assert read.outputs[0].shape == ("rows", 2)


def test_output_that_no_array_holds_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("SequenceConstruct", ["x"], ["s"])
    output = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])], [output])
    path = tmp_path / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FormatMismatch, match=r"'s' is a seq\(tensor\(float\)\)"):
        table.backend("onnx").read_signature("onnx", path)


def test_file_that_is_no_model_has_no_signature(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no protobuf at all")
    with pytest.raises(FormatMismatch, match="ONNX Runtime cannot read"):
        table.backend("onnx").read_signature("onnx", path)


@pytest.mark.parametrize("location", ["../secret.bin", "link.bin"])
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_weights_outside_the_folder_are_not_read(tmp_path: Path, location: str, backend: str) -> None:
    (tmp_path / "secret.bin").write_bytes(np.ones(12, np.float32).tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to("../secret.bin")
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 3], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "48")):
        weight.external_data.add(key=key, value=value)
    package = _package(write_onnx(folder / "model.onnx", [MATMUL], PLAIN, {"w": weight}))
    with pytest.raises(RuntimeLoadError):
        table.backend(backend).open(package, SessionOptions())
