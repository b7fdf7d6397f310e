"""`runoff models` lists what is here, and `runoff registry add` adds to it."""

from __future__ import annotations

import json

import pytest

from fakes.model_files import make_folder
from runoff.cli.app import run


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RUNOFF_REGISTRY", str(tmp_path / "registry"))


def _call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        run([str(argument) for argument in arguments])
    return caught.value.code


def test_model_is_added_listed_and_described(tmp_path, capsys):
    made = make_folder(tmp_path / "made").root
    assert _call("registry", "add", made, "tiny", "--version", "1.2", "--alias", "tiny-3", "--alias", "small") == 0
    assert "added tiny@1.2, also small, tiny-3" in capsys.readouterr().out
    assert _call("registry", "add", made, "tiny", "--version", "1.10", "--json") == 0
    assert json.loads(capsys.readouterr().out)["is_latest"] is True
    assert _call("models") == 0
    out = " ".join(capsys.readouterr().out.split())
    for word in ("1.10 (latest)", "small, tiny-3", "onnx-fp32", "2 models"):
        assert word in out
    assert _call("models", "--json") == 0
    first, second = json.loads(capsys.readouterr().out)["models"]
    assert (first["version"], first["is_latest"], first["bytes"]) == ("1.10", True, 21)
    assert second["aliases"] == ["small", "tiny-3"]
    assert _call("describe", "tiny-3", "--json") == 0
    assert json.loads(capsys.readouterr().out)["source"]["kind"] == "registry"


def test_version_that_is_there_is_refused(tmp_path, capsys):
    made = make_folder(tmp_path / "made").root
    assert _call("registry", "add", made, "tiny", "--version", "1") == 0
    assert _call("registry", "add", made, "tiny", "--version", "1") == 1
    assert "a version is never changed" in " ".join(capsys.readouterr().err.split())


def test_registry_must_be_named(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RUNOFF_REGISTRY")
    made = make_folder(tmp_path / "made").root
    assert _call("registry", "add", made, "tiny", "--version", "1") == 1
    assert "RUNOFF_REGISTRY" in " ".join(capsys.readouterr().err.split())
    assert _call("registry", "add", made, "tiny", "--version", "1", "--registry", tmp_path / "other") == 0
    assert _call("models", "--registry", tmp_path / "other") == 0
    assert "1 model" in capsys.readouterr().out
