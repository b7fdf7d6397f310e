from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import runoff
from fakes.networks import Mlp
from runoff.cli.app import run
from runoff.environment.libraries import is_importable
from runoff.models.folder import ModelFolder, read_folder


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    return runoff.package(Mlp(), torch.ones(2, 4), tmp_path / "mlp")


def _exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as caught:
        run(["export", *arguments])
    return caught.value.code


def test_formats_are_made_and_listed_and_found_again(model: ModelFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(str(model.root), "--to", "onnx,openvino") == 0
    printed = capsys.readouterr()
    assert "onnx-fp32" in printed.out and "openvino-fp32" in printed.out
    assert "torch-export at fp32 -> onnx at fp32" in printed.err
    assert [package.id for package in read_folder(model.root).packages] == ["torch-fp32", "onnx-fp32", "openvino-fp32"]
    assert _exit_code(str(model.root), "--to", "ort,ov", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert [(row["package"], row["new"]) for row in data["made"]] == [("onnx-fp32", False), ("openvino-fp32", False)]
    assert data["failed"] == []


def test_one_failing_format_does_not_stop_the_others(model: ModelFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(str(model.root), "--to", "hf,openvino", "--json") == 1
    data = json.loads(capsys.readouterr().out)
    assert [row["package"] for row in data["made"]] == ["openvino-fp32"]
    assert data["made"][0]["bytes"] == sum(
        path.stat().st_size for path in Path(data["made"][0]["path"]).parent.iterdir()
    )
    assert [row["to"] for row in data["failed"]] == ["hf"]
    assert data["failed"][0]["hint"]


def test_runtime_without_a_format_is_a_reason_beside_what_was_made(
    model: ModelFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _exit_code(str(model.root), "--to", "snpe,onnx,rknn") == 1
    printed = capsys.readouterr()
    assert [line.split()[1] for line in printed.out.splitlines() if line.startswith("│")] == ["snpe", "onnx", "rknn"]
    assert "failed: this version of runoff makes no files for SNPE" in printed.out
    assert "hint for snpe: SNPE is reached by: runoff export MODEL --to onnx" in printed.err


def test_static_format_refuses_a_dynamic_batch_and_the_others_take_it(
    model: ModelFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _exit_code(str(model.root), "--to", "litert,onnx", "--batch", "dynamic", "--json") == 1
    data = json.loads(capsys.readouterr().out)
    assert [row["package"] for row in data["made"]] == ["onnx-fp32"]
    assert "made for one batch size each" in data["failed"][0]["message"]


def test_precision_that_only_quantising_gives_is_refused_with_its_command(
    model: ModelFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _exit_code(str(model.root), "--to", "openvino", "--precision", "int8", "--json") == 1
    failed = json.loads(capsys.readouterr().out)["failed"]
    assert failed[0]["hint"] == f"runoff quantize {model.root} --precision int8-static --backend openvino"


def test_bare_file_is_exported_in_the_folder_asked_for(
    model: ModelFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = [str(model.reference.main_file), "--to", "openvino", "--batch", "3", "--out", str(out), "--json"]
    assert _exit_code(*given) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["package"] for row in data["made"]] == ["openvino-fp32-b3"]
    assert data["folder"] == str(out)
    assert [package.id for package in read_folder(out).packages] == ["torch-fp32", "openvino-fp32-b3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "onix"], "did you mean 'onnx'?"),
        (["--to", ","], "unknown format ','"),
        (["--to", "onnx", "--precision", "fp99"], "unknown precision 'fp99'"),
        (["--to", "onnx", "--batch", "none"], "--batch 'none' is neither"),
        ([], "--to"),
    ],
)
def test_usage_errors_are_told_apart(
    model: ModelFolder, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert _exit_code(str(model.root), *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["trt", "tensorrt"])
def test_engine_is_refused_with_the_extra_when_tensorrt_is_missing(
    model: ModelFolder, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if is_importable("tensorrt"):
        pytest.skip("TensorRT is installed")
    assert _exit_code(str(model.root), "--to", name, "--precision", "fp16", "--json") == 1
    failed = json.loads(capsys.readouterr().out)["failed"]
    assert failed[0]["message"].startswith("cannot make trt at fp16 from torch-export at fp32: missing tensorrt")
    assert failed[0]["hint"] == "pip install 'runoff[trt10]'"


def test_model_that_is_not_there_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(str(tmp_path / "none.onnx"), "--to", "openvino") == 1
    assert "none.onnx" in capsys.readouterr().err


def test_interrupt_leaves_the_folder_as_it_was(model: ModelFolder) -> None:
    command = [sys.executable, "-c", "from runoff.cli import main; main()", "export", str(model.root), "--to", "onnx"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not list(model.root.glob(".staging-*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not list(model.root.glob(".staging-*"))
    folder = read_folder(model.root)
    assert [package.id for package in folder.packages] == ["torch-fp32"]
    folder.reference.verify()
