"""`runoff verify` tells whole models from damaged ones by its exit code."""

from __future__ import annotations

import json

import pytest

from fakes.engines import engine_folder
from fakes.fake_models import make_fake_model
from fakes.model_files import make_folder, onnx_bytes
from fakes.plugin_site import plugged_in
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


@pytest.fixture
def replayed(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    packages = {"right": {}, "wrong": {"factor": 1.5}, "crashing": {"on_run": "segfault"}}
    with plugged_in(tmp_path / "site"):
        yield make_fake_model(tmp_path / "fake", packages, golden=True).root


def test_every_package_is_replayed_and_a_refused_one_fails_the_job(replayed, capsys):
    assert _call("verify", replayed, "--run") == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "1 of 3 packages answer the golden pair here, 1 refused" in out
    for word in ("right", "refused", "cannot run here", "5.0e-01", "1.0e-04"):
        assert word in out


def test_replay_is_data_when_json_is_asked_for(replayed, capsys):
    assert _call("verify", replayed, "--run", "--json") == 1
    data = json.loads(capsys.readouterr().out)
    assert data["ok"] is False
    assert {found["package_id"]: found["status"] for found in data["packages"]} == {
        "right": "ok",
        "wrong": "refused",
        "crashing": "cannot run here",
    }
    assert data["packages"][1]["outputs"][0]["max_rel"] == pytest.approx(0.5)


def test_one_package_is_replayed_when_it_is_named(replayed, capsys):
    assert _call("verify", replayed, "--run", "--package", "right") == 0
    assert _call("verify", replayed, "--run", "--package", "crashing") == 1
    assert "none of these packages can run here" in " ".join(capsys.readouterr().err.split())
    assert _call("verify", replayed, "--run", "--package", "none") == 2
    assert _call("verify", replayed, "--run", "--backend", "onnx") == 2
    assert _call("verify", replayed, "--package", "right") == 2


def test_model_without_a_golden_pair_cannot_be_replayed(tmp_path, capsys):
    assert _call("verify", make_folder(tmp_path / "m").root, "--run") == 1
    assert "no golden pair" in " ".join(capsys.readouterr().err.split())


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
