"""The models that are here are listed, broken ones with the reason."""

from __future__ import annotations

import pytest

from fakes.model_files import make_folder, onnx_bytes
from runoff.models import cache
from runoff.models.listing import list_models


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RUNOFF_MODELS", str(tmp_path / "models"))


def test_nothing_is_listed_when_nothing_is_there(tmp_path, monkeypatch):
    assert list_models() == []
    monkeypatch.delenv("RUNOFF_MODELS")
    assert list_models() == []


def test_folders_below_both_places_are_listed(tmp_path):
    make_folder(tmp_path / "models" / "b")
    make_folder(tmp_path / "models" / "vision" / "a")
    outside = make_folder(tmp_path / "elsewhere")
    cache.working_copy(outside)
    (tmp_path / "models" / "m.onnx").write_bytes(onnx_bytes())
    found = list_models()
    assert [(model.place, model.name, model.packages) for model in found] == [
        ("models", "tiny", ("onnx-fp32",)),
        ("models", "tiny", ("onnx-fp32",)),
        ("cache", "tiny", ("onnx-fp32",)),
    ]
    assert [model.path for model in found[:2]] == [
        str(tmp_path / "models" / "b"),
        str(tmp_path / "models" / "vision" / "a"),
    ]
    assert {model.task for model in found} == {"classification"}


def test_hidden_and_nested_folders_are_passed_over(tmp_path):
    make_folder(tmp_path / "models" / "m")
    make_folder(tmp_path / "models" / "m" / "inner")
    make_folder(tmp_path / "models" / ".staging-x")
    make_folder(tmp_path / "models" / "1" / "2" / "3" / "4" / "5")
    assert [model.path for model in list_models()] == [str(tmp_path / "models" / "m")]


def test_folder_is_listed_with_the_reason_when_its_manifest_is_broken(tmp_path):
    (make_folder(tmp_path / "models" / "m").root / "runoff.json").write_text("{}")
    (only,) = list_models()
    assert only.name == "m"
    assert "schema" in only.problem
