from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from fakes.onnx_models import onnx_folder
from fakes.packages import spec
from meta.repository import ROOT
from runoff.cli.app import run
from runoff.errors import ExportError
from runoff.export.trt_check import check_onnx
from runoff.models.folder import ModelFolder, read_folder
from runoff.types import Precision, Signature


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    """Eight features to four scores, with 256 labelled rows that it answers rightly."""
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((8, 32)).astype(np.float32),
        "v": rng.standard_normal((32, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"], "second"),
    ]
    rows = rng.standard_normal((256, 8)).astype(np.float32)
    labels = (np.maximum(rows @ weights["w"], 0) @ weights["v"]).argmax(1)
    signature = Signature((spec("x", "batch", 8),), (spec("y", "batch", 4),))
    return onnx_folder(tmp_path / "net", nodes, signature, weights, evaluation=({"x": rows}, labels))


def _exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as caught:
        run(["quantize", *arguments])
    return caught.value.code


def test_result_carries_size_speed_fidelity_and_metric(model: ModelFolder, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--precision", "int8-static", "--backend", "onnx,openvino", "--max-metric-drop", "10pp", "--json")
    assert _exit_code(str(model.root), *arguments) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["package_id"] for row in data["made"]] == ["onnx-int8-static", "openvino-int8"]
    for row in data["made"]:
        assert row["p50_ms"] > 0 and row["source_p50_ms"] > 0
        assert row["size_bytes"] > 0 and row["source_bytes"] > 0
        assert 0 < row["outputs"]["y"]["max_rel"] < 0.2
        assert row["source_metric"] == {"accuracy": 1.0}
        assert row["metric"]["accuracy"] >= 0.9
        assert row["num_judged"] == 128
        assert "128 of 256 rows" in row["calibration"]
    ids = [package.id for package in read_folder(model.root).packages]
    assert ids == ["onnx-fp32", "onnx-int8-static", "openvino-fp32", "openvino-int8"]


def test_symmetric_graph_is_one_that_tensorrt_takes(model: ModelFolder, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--precision", "int8-static", "--backend", "onnx", "--max-metric-drop", "10pp", "--json")
    assert _exit_code(str(model.root), *arguments) == 0
    with pytest.raises(ExportError, match=r"signed integers around zero only: .* is uint8"):
        check_onnx(read_folder(model.root).package("onnx-int8-static").main_file, Precision.INT8)
    capsys.readouterr()
    assert _exit_code(str(model.root), *arguments, "--symmetric", "--force") == 0
    assert json.loads(capsys.readouterr().out)["made"][0]["metric"]["accuracy"] >= 0.9
    made = read_folder(model.root).package("onnx-int8-static")
    assert made.entry.made_by is not None and made.entry.made_by.details["symmetric"] is True
    assert check_onnx(made.main_file, Precision.INT8)["narrowed"] == []


def test_table_names_the_candidate_and_the_data(model: ModelFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(str(model.root), "--precision", "int8-dynamic", "--max-metric-drop", "10pp") == 0
    printed = capsys.readouterr()
    assert "onnx-int8-dynamic@" in printed.out and "accuracy 100.00 ->" in printed.out
    assert "onnx-int8-dynamic: judged on 128 rows: 128 of 256 rows of the model's evaluation data" in printed.out
    assert "onnx-fp32 -> onnx-int8-dynamic" in printed.err
    assert "without litert-int8: " in printed.err


def test_form_outside_its_contract_fails_with_the_reason(
    model: ModelFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--precision", "int8-static", "--backend", "onnx", "--max-error", "1e-9", "--json")
    assert _exit_code(str(model.root), *arguments) == 1
    (failed,) = json.loads(capsys.readouterr().out)["failed"]
    assert failed["package"] == "onnx-int8-static" and failed["code"] == "RUNOFF-600"
    assert "outside its contract" in failed["message"]


def test_bf16_is_a_way_to_open_a_package_and_makes_none(model: ModelFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(str(model.root), "--precision", "bf16", "--backend", "openvino", "--json") in (0, 1)
    data = json.loads(capsys.readouterr().out)
    assert [row["candidate_id"].partition("@")[0] for row in data["made"]] + [row["package"] for row in data["failed"]]
    assert [package.id for package in read_folder(model.root).packages] == ["onnx-fp32", "openvino-fp32"]


def test_images_of_a_folder_calibrate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / "examples" / "digits", tmp_path / "digits")
    images = str(tmp_path / "digits" / "images")
    arguments = (
        "--precision",
        "int8-static",
        "--backend",
        "onnx",
        "--data",
        images,
        "--max-metric-drop",
        "2pp",
        "--json",
    )
    assert _exit_code(str(tmp_path / "digits"), *arguments) == 0
    (made,) = json.loads(capsys.readouterr().out)["made"]
    assert made["calibration"] == "minmax, 10 images of images (10 rows)"
    assert made["num_judged"] == 450


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int9"], "unknown precision 'int9'"),
        (["--precision", "int8-static", "--calibration", "magic"], "unknown calibration 'magic'"),
        (["--precision", "int8-dynamic", "--backend", "openvino"], "has no int8-dynamic form"),
        (["--precision", "bf16", "--backend", "onnx"], "has no bf16 form"),
        (["--precision", "int8-static", "--symmetric"], "symmetric quantisation is for TensorRT"),
        (["--precision", "int4", "--backend", "onnx", "--symmetric"], "symmetric quantisation is for TensorRT"),
        (["--precision", "int4", "--labels", "labels.npy"], "--labels needs the --data"),
        (["--precision", "int4", "--max-metric-drop", "much"], "neither percentage points nor a fraction"),
        ([], "--precision"),
    ],
)
def test_usage_errors_are_told_apart(
    model: ModelFolder, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert _exit_code(str(model.root), *arguments) == 2
    assert message in capsys.readouterr().err


def test_data_that_do_not_fit_fail_before_anything_runs(
    model: ModelFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "data.npz", x=np.full((4, 8), np.nan, np.float32))
    assert _exit_code(str(model.root), "--precision", "int8-static", "--data", str(tmp_path / "data.npz")) == 1
    assert "32 values that are NaN or infinite" in capsys.readouterr().err
    assert len(read_folder(model.root).packages) == 1
