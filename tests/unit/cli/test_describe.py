"""`runoff describe` as a person and as a program call it."""

from __future__ import annotations

import json

import pytest

from fakes.engines import engine_folder
from fakes.model_files import make_folder, onnx_bytes
from runoff.cli.app import run


def _call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        run([str(argument) for argument in arguments])
    return caught.value.code


def test_folder_is_shown_with_signature_and_packages(tmp_path, capsys):
    assert _call("describe", make_folder(tmp_path / "m").root) == 0
    out = capsys.readouterr().out
    assert "x: fp32[batch, 3]" in out
    assert "onnx-fp32" in out


def test_folder_is_data_when_json_is_asked_for(tmp_path, capsys):
    assert _call("describe", make_folder(tmp_path / "m").root, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["source"] == {"kind": "folder", "origin": str(tmp_path / "m")}
    assert data["packages"][0]["id"] == "onnx-fp32"


def test_bare_file_names_the_backends_that_open_it(tmp_path, capsys):
    (tmp_path / "m.onnx").write_bytes(onnx_bytes())
    assert _call("describe", tmp_path / "m.onnx", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["format"] == "onnx"
    assert {"onnx", "openvino"} <= set(data["opened_by"])


@pytest.mark.parametrize(("content", "why"), [(None, "no such file"), (b"text", "not an ONNX model")])
def test_error_has_no_traceback_when_there_is_no_model(tmp_path, capsys, content, why):
    if content is not None:
        (tmp_path / "m.onnx").write_bytes(content)
    assert _call("describe", tmp_path / "m.onnx") == 1
    printed = capsys.readouterr()
    assert why in " ".join(printed.err.split())
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_error_is_data_when_json_is_asked_for(tmp_path, capsys):
    assert _call("describe", tmp_path / "none.onnx", "--json") == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "RUNOFF-201"


def test_engine_that_cannot_run_here_is_shown_with_its_reason_and_the_offer_to_rebuild(tmp_path, capsys):
    root = engine_folder(tmp_path / "m", platform="solaris-sparc").root
    offer = "build it again here from onnx-fp32: runoff export MODEL --to trt --precision fp16 --force"
    assert _call("describe", root) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "trt-fp16 cannot run here: " in out
    assert "built for solaris-sparc, this is" in out
    assert f"hint: {offer}" in out
    assert _call("describe", root, "--json") == 0
    packages = {package["id"]: package for package in json.loads(capsys.readouterr().out)["packages"]}
    assert packages["onnx-fp32"]["not_here"] is None
    assert "built for solaris-sparc" in packages["trt-fp16"]["not_here"]
    assert packages["trt-fp16"]["hint"] == offer
