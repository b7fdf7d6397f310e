"""`runoff verify` tells whole models from damaged ones by its exit code."""

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


def test_whole_folder_passes(tmp_path, capsys):
    assert _call("verify", make_folder(tmp_path / "m").root) == 0
    assert "2 files ok" in capsys.readouterr().out


def test_every_damaged_file_is_named_and_the_job_fails(tmp_path, capsys):
    made = make_folder(tmp_path / "m")
    (made.root / "labels.txt").unlink()
    made.reference.main_file.write_bytes(b"x")
    assert _call("verify", made.root, "--json") == 1
    data = json.loads(capsys.readouterr().out)
    assert data["ok"] is False
    assert {file["path"]: file["status"] for file in data["files"]} == {
        "packages/onnx-fp32/model.onnx": "truncated",
        "labels.txt": "missing",
    }
    assert _call("verify", made.root) == 1
    assert "2 of 2 files" in capsys.readouterr().out


def test_bare_file_passes_when_it_is_what_its_name_says(tmp_path, capsys):
    (tmp_path / "m.onnx").write_bytes(onnx_bytes())
    assert _call("verify", tmp_path / "m.onnx", "--json") == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["format"] == "onnx"
    assert _call("verify", tmp_path / "m.onnx", "--sha256", "0" * 64) == 1


def test_manifest_that_leads_out_is_an_error(tmp_path, capsys):
    made = make_folder(tmp_path / "m")
    text = (made.root / "runoff.json").read_text().replace("labels.txt", "../labels.txt")
    (made.root / "runoff.json").write_text(text)
    assert _call("verify", made.root) == 1
    assert "not a plain path inside the folder" in " ".join(capsys.readouterr().err.split())


def test_whole_engine_that_cannot_run_here_passes_with_the_reason(tmp_path, capsys):
    root = engine_folder(tmp_path / "m", platform="solaris-sparc").root
    assert _call("verify", root) == 0
    assert "trt-fp16 cannot run here: " in capsys.readouterr().out
    assert _call("verify", root, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["ok"] is True
    assert "built for solaris-sparc, this is" in data["not_here"]["trt-fp16"]["reason"]
