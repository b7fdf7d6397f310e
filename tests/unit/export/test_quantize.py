"""Quantised packages of real nets: the digits net, a small transformer that is trained here, and nets that go wrong."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper

from fakes.onnx_models import onnx_folder
from fakes.packages import spec
from fakes.text_classifier import train_text_classifier
from meta.repository import ROOT
from runoff.backends import table
from runoff.backends.protocol import SessionOptions
from runoff.backends.rows import with_any_batch
from runoff.errors import ExportError, UnknownName
from runoff.export.calibration import Rows
from runoff.export.forms import FORMS, Form, find_form
from runoff.export.isolated import plain, worker
from runoff.export.layers import read_feeds
from runoff.export.quantize import QuantizeOptions, form_id, quantize_package, read_log
from runoff.export.run import find_package
from runoff.export.sensitivity import BROKEN
from runoff.export.step import Made, Quantization, StepOptions
from runoff.models.evaluation import metric_for, read_evaluation
from runoff.models.folder import ModelFolder, Package, read_folder
from runoff.race.fidelity import Contract
from runoff.race.yardstick import Yardstick, make_yardstick
from runoff.types import Precision, Signature

IDS = [form.id for form in FORMS]
FROM_ONNX = [form.id for form in FORMS if form.format in ("onnx", "openvino")]
DROP = 0.005


def _form(package_id: str) -> Form:
    return next(form for form in FORMS if form.id == package_id)


def _make(
    folder: ModelFolder, form_name: str, contract: Contract | None = None, data: Rows | None = None, **options: Any
) -> Package:
    """Quantise and answer the new package."""
    form = _form(form_name)
    yardstick = _yardstick(folder.root) if data is None else make_yardstick(folder, data)
    judging = yardstick.judging(form.precision, contract or Contract())
    folder = quantize_package(folder, form, yardstick.calibration, judging, QuantizeOptions(**options))
    return folder.package(form_id(folder, form))


@cache
def _yardstick(root: Path) -> Yardstick:
    return make_yardstick(read_folder(root))


def _accuracy(package: Package, folder: ModelFolder) -> float:
    """Over all evaluation rows."""
    data = read_evaluation(folder)
    opened = table.backend(package.entry.backend).open(package, SessionOptions())
    session = with_any_batch(opened, package.entry, folder.manifest.signature)
    found = metric_for(folder.manifest.task)
    assert found is not None
    outputs = session.run(data.inputs)
    session.close()
    return found[1](outputs, data.labels)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    root = tmp_path_factory.mktemp("models") / "digits"
    shutil.copytree(ROOT / "examples" / "digits", root)
    return read_folder(root)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return train_text_classifier(tmp_path_factory.mktemp("models") / "text")


@pytest.mark.parametrize("form_name", IDS)
@pytest.mark.parametrize("model", ["digits", "text"])
def test_accuracy_drops_by_half_a_point_at_most(model: str, form_name: str, request: pytest.FixtureRequest) -> None:
    folder = read_folder(request.getfixturevalue(model).root)
    package = _make(folder, form_name)
    made = read_folder(folder.root)
    fp32 = find_package(made, package.entry.format, Precision.FP32, package.entry.batch)
    assert fp32 is not None
    assert _accuracy(package, folder) >= _accuracy(fp32, folder) - DROP - 1 / 450
    weights = [sum(file.bytes for file in each.entry.files if ".json" not in file.path) for each in (package, fp32)]
    # The description of torchao's steps outweighs what a few thousand weights save.
    assert weights[0] < weights[1] or (model, form_name) == ("text", "torch-int8-dynamic")
    made_by = package.entry.made_by
    assert made_by is not None
    source = find_package(made, _form(form_name).source_format, Precision.FP32, "dynamic") or fp32
    assert (made_by.source, made_by.details["method"]) == (source.id, _form(form_name).method)
    if _form(form_name).reads_data:
        assert made_by.details["rows"] == 128
        assert "evaluation data" in made_by.details["data"]
    assert (read_log(package) is not None) == bool(made_by.details.get("kept"))


def test_static_graph_holds_int8_weights_for_each_channel(digits: ModelFolder) -> None:
    package = _make(read_folder(digits.root), "onnx-int8-static")
    graph = onnx.load(package.main_file).graph
    weights = [
        tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    assert len(weights) == 5
    scales = {tensor.name: tensor for tensor in graph.initializer}
    assert list(scales[weights[0].name.replace("_quantized", "_scale")].dims) == [32]
    assert str(package.root) not in package.main_file.read_bytes().decode(errors="ignore")


@pytest.mark.parametrize("calibration", ["entropy", "percentile"])
def test_histogram_calibrations_keep_the_accuracy(digits: ModelFolder, calibration: str) -> None:
    package = _make(read_folder(digits.root), "onnx-int8-static", calibration=calibration, force=True)
    assert package.entry.made_by is not None and package.entry.made_by.details["calibration"] == calibration
    assert _accuracy(package, digits) >= 0.99


@pytest.mark.parametrize("form_name", ["onnx-int8-static", "openvino-int8", "litert-int8-static"])
def test_sensitive_layers_stay_in_fp32_when_the_whole_model_is_outside_its_contract(
    digits: ModelFolder, form_name: str
) -> None:
    tight = {"onnx-int8-static": 0.009, "openvino-int8": 0.05, "litert-int8-static": 0.05}[form_name]
    package = _make(read_folder(digits.root), form_name, Contract(max_error=tight), force=True)
    log = read_log(package)
    assert log is not None and log.after is not None
    assert log.before.outside is not None and "is over" in log.before.outside
    assert log.before.figures["max_rel"] > tight >= log.after.figures["max_rel"]
    assert package.entry.made_by is not None
    assert sorted(package.entry.made_by.details["kept"]) == sorted(log.kept)
    assert 0 < len(log.kept) < log.num_layers == len(log.ranking)


def test_package_that_cannot_meet_its_contract_is_not_added(digits: ModelFolder) -> None:
    folder = read_folder(digits.root)
    before = folder.manifest
    with pytest.raises(ExportError, match=r"outside its contract: largest relative error .* layers kept too"):
        _make(folder, "onnx-int8-static", Contract(max_error=1e-7), force=True)
    assert read_folder(folder.root).manifest.package("onnx-int8-static") == before.package("onnx-int8-static")
    assert not list(folder.root.glob(".staging-*"))


def _two_heads(root: Path, *, steady: bool) -> ModelFolder:
    """y: the logarithm of a product, infinite where x is rounded to nothing; with `steady` also z, a plain product."""
    nodes = [
        helper.make_node("Abs", ["x"], ["a"], "abs"),
        helper.make_node("MatMul", ["a", "w"], ["h"], "fragile"),
        helper.make_node("Log", ["h"], ["y"], "log"),
    ]
    outputs = [spec("y", "batch", 4)]
    if steady:
        nodes.append(helper.make_node("MatMul", ["a", "v"], ["z"], "steady"))
        outputs.append(spec("z", "batch", 4))
    weights = np.eye(4, dtype=np.float32)
    constants = {"w": weights, "v": weights} if steady else {"w": weights}
    return onnx_folder(root, nodes, Signature((spec("x", "batch", 4),), tuple(outputs)), constants)


def _outlier_rows() -> Rows:
    """All values but those of one row are far below the step of 8 bits."""
    rows = np.full((64, 4), 0.1, np.float32)
    rows[0] = 1e4
    return Rows({"x": rows}, "rows with an outlier")


def test_nan_under_quantisation_is_a_reason_when_no_layer_can_be_spared(tmp_path: Path) -> None:
    folder = _two_heads(tmp_path / "net", steady=False)
    with pytest.raises(ExportError, match=r"output 'y' is NaN or infinite where .*: \d+ of \d+ values"):
        _make(folder, "onnx-int8-static", data=_outlier_rows())
    assert [package.id for package in read_folder(folder.root).packages] == ["onnx-fp32"]


def test_layer_that_answers_nan_is_kept_in_fp32(tmp_path: Path) -> None:
    folder = _two_heads(tmp_path / "net", steady=True)
    contract = Contract(max_error=2.0)
    package = _make(folder, "onnx-int8-static", contract, _outlier_rows())
    log = read_log(package)
    assert log is not None and log.kept == ("fragile",)
    assert log.ranking[0].error == BROKEN > log.ranking[1].error


@pytest.mark.parametrize("form_name", ["onnx-int8-dynamic", "onnx-int4"])
def test_methods_for_linear_layers_refuse_a_convolutional_net(tmp_path: Path, form_name: str) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["c"], "convolution"),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["y"], "head"),
    ]
    signature = Signature((spec("image", "batch", 3, 8, 8),), (spec("y", "batch", 2),))
    constants = {"k": np.ones((64, 3, 3, 3), np.float32), "w": np.ones((64, 2), np.float32)}
    folder = onnx_folder(tmp_path / "net", nodes, signature, constants)
    with pytest.raises(ExportError, match=r"has 7 % of its weights in them, the rest in convolutions") as caught:
        _make(folder, form_name)
    assert "int8-static" in str(caught.value.hint)


@pytest.mark.parametrize("form_name", FROM_ONNX)
def test_model_without_a_layer_to_quantise_gives_a_reason(tmp_path: Path, form_name: str) -> None:
    signature = Signature((spec("x", "batch", 4),), (spec("y", "batch", 4),))
    folder = onnx_folder(tmp_path / "net", [helper.make_node("Sigmoid", ["x"], ["y"])], signature)
    with pytest.raises(ExportError, match="can be quantised"):
        _make(folder, form_name)


@pytest.mark.parametrize("form_name", ["onnx-int8-static", "openvino-int8"])
def test_model_made_for_one_batch_is_quantised_for_it(tmp_path: Path, form_name: str) -> None:
    signature = Signature((spec("x", 3, 16),), (spec("y", 3, 4),))
    weights = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    folder = onnx_folder(tmp_path / "net", nodes, signature, {"w": weights}, batch=3)
    package = _make(folder, form_name)
    assert (package.id, package.entry.batch) == (f"{form_name}-b3", 3)


def test_present_package_is_left_alone_unless_forced(digits: ModelFolder) -> None:
    first = _make(read_folder(digits.root), "onnx-int4")
    lines: list[str] = []
    assert _make(read_folder(digits.root), "onnx-int4", on_step=lines.append) == first
    assert lines == []


@pytest.mark.parametrize("form_name", ["executorch-int8", "torch-int8-dynamic"])
def test_layer_that_is_to_be_kept_keeps_its_weights(digits: ModelFolder, tmp_path: Path, form_name: str) -> None:
    form, source = _form(form_name), read_folder(digits.root).package("torch-fp32")
    sizes = []
    with worker() as child:
        for number, kept in enumerate(((), ("linear",))):
            place = tmp_path / str(number)
            place.mkdir()
            step = StepOptions(
                Precision.INT8, 1 if form.backend == "executorch" else "dynamic", quantization=Quantization(kept=kept)
            )
            made = msgspec.convert(
                child.call(
                    "export",
                    300.0,
                    package=plain(source),
                    target=form.target,
                    destination=str(place),
                    options=msgspec.to_builtins(step),
                ),
                Made,
            )
            assert (made.layers, made.kept) == (("linear", "linear_1"), kept)
            sizes.append((place / made.main_file).stat().st_size)
    # 384 x 128 weights, at four bytes in place of one.
    assert sizes[1] - sizes[0] > 2 * 384 * 128


@pytest.mark.parametrize(
    ("form_name", "way"), [("litert-int8-static", "entropy"), ("executorch-int8-static", "percentile")]
)
def test_way_of_calibrating_that_a_quantiser_lacks_is_refused_before_anything_runs(
    digits: ModelFolder, form_name: str, way: str
) -> None:
    lines: list[str] = []
    with pytest.raises(ExportError, match=rf"{form_name}-b7: its quantiser reads ranges by minmax.*, not by {way}"):
        quantize_package(
            read_folder(digits.root),
            _form(form_name),
            _yardstick(digits.root).calibration,
            _yardstick(digits.root).judging(Precision.INT8, Contract()),
            QuantizeOptions(calibration=way, on_step=lines.append),
            batch=7,
        )
    assert lines == []


def test_quantiser_is_stopped_when_it_takes_too_much_memory(digits: ModelFolder) -> None:
    with pytest.raises(ExportError, match=r"the quantiser used \d+ MiB of memory, more than 60"):
        _make(read_folder(digits.root), "litert-int8-static", max_memory_bytes=60 << 20, force=True)


def test_calibration_rows_of_another_size_are_refused_when_files_are_made_for_one(tmp_path: Path) -> None:
    data = tmp_path / "rows.npz"
    np.savez(data, x=np.zeros((4, 5), np.float32))
    signature = Signature((spec("x", 2, 8),), (spec("y", 2, 8),))
    with pytest.raises(ExportError, match=r"the calibration rows do not fit what .*axis 1 must be 8"):
        read_feeds(Quantization(data=str(data), batched=("x",)), 2, signature)


def test_backend_without_the_form_is_refused_by_name() -> None:
    with pytest.raises(UnknownName, match="backend 'openvino' has no int8-dynamic form; executorch, litert, onnx"):
        find_form("openvino", "int8-dynamic")


def test_accuracy_control_keeps_layers_when_labels_and_a_drop_are_given(tmp_path: Path) -> None:
    # Two classes that differ by less than the step of 8 bits beside one large feature, which the first layer drops.
    rows = np.random.default_rng(0).random((256, 4), np.float32) * np.array([1, 1, 1, 2000], np.float32)
    labels = (rows[:, 0] > rows[:, 1]).astype(np.int64)
    constants = {
        "w": np.diag([1.0, 1.0, 1.0, 0.0]).astype(np.float32),
        "v": np.array([[0, 1], [1, 0], [0, 0], [0, 0]], np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "v"], ["y"], "second"),
    ]
    signature = Signature((spec("x", "batch", 4),), (spec("y", "batch", 2),))
    folder = onnx_folder(tmp_path / "net", nodes, signature, constants, evaluation=({"x": rows}, labels))
    lines: list[str] = []
    contract = Contract(max_metric_drop=0.03)
    package = _make(folder, "openvino-int8", contract, max_metric_drop=0.03, on_step=lines.append)
    assert any("accuracy control" in line for line in lines)
    log = read_log(package)
    assert log is not None and log.after is not None
    assert log.kept == ("first",)
    assert log.after.figures["accuracy"] >= 0.97 > log.before.figures["accuracy"]
