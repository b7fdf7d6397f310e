"""`runoff.advise` from end to end on a small model, with a real race."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import runoff
from fakes.onnx_models import onnx_folder
from fakes.packages import spec
from runoff.errors import UnknownName
from runoff.models.folder import ModelFolder, read_folder
from runoff.race.advice import api
from runoff.race.advice.api import read_questions
from runoff.race.options import RaceOptions
from runoff.race.run import race_folder
from runoff.types import Signature

ASKED = {"hardware": "intel", "sensitivity": "latency", "targets": "few"}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    weights = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    signature = Signature((spec("x", "batch", 16),), (spec("y", "batch", 16),))
    return onnx_folder(tmp_path / "net", [helper.make_node("MatMul", ["x", "w"], ["y"])], signature, {"w": weights})


@pytest.mark.slow
def test_small_model_is_measured_unasked_and_not_twice(model: ModelFolder) -> None:
    advice = runoff.advise(model.root, **ASKED)
    assert advice.notes == () and advice.raced_at is not None
    assert advice.profile.kind == "linear"
    timed = {each.candidate for each in advice.recommendations if each.measured is not None}
    refused = {each.form for each in advice.refused}
    assert {"openvino-fp32", "openvino-int8", "openvino-fp32+default"} <= timed | refused
    again: list[object] = []
    assert runoff.advise(model.root, **ASKED, listener=again.append).raced_at == advice.raced_at
    assert again == []


def test_nothing_is_made_when_measuring_is_off_or_the_model_is_large(
    model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = runoff.advise(model.root, **ASKED, measure=False)
    monkeypatch.setattr(api, "CHEAP_BYTES", 10)
    large = runoff.advise(model.root, **ASKED)
    for advice in (off, large):
        assert all(each.measured is None for each in advice.recommendations)
    assert large.notes[0].startswith("not raced unasked")
    assert [package.id for package in read_folder(model.root).packages] == ["onnx-fp32"]


@pytest.mark.slow
def test_record_on_other_data_is_kept_and_the_command_for_the_rest_told(model: ModelFolder, tmp_path: Path) -> None:
    data = tmp_path / "rows.npz"
    np.savez(data, x=np.ones((4, 16), np.float32))
    quick = RaceOptions(backends=("onnx",), num_threads=(1,), rounds=1, max_rounds=1, turn_s=0.01, data=data)
    before = race_folder(model, quick).record
    advice = runoff.advise(model.root, **ASKED)
    assert advice.raced_at == before.raced_at
    assert "taken on other data" in advice.notes[0]
    assert f"runoff race {model.root} --data DATA --candidates openvino-int8,openvino-fp32+default" in advice.notes[0]
    assert [package.id for package in read_folder(model.root).packages] == ["onnx-fp32"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("toaster", "latency", "one"), "unknown hardware 'toaster'.*nvidia, intel"),
        (("intel", "latencies", "one"), "did you mean 'latency'"),
        (("intel", "latency", "several"), "unknown number of targets 'several'"),
        ((" , ", "latency", "one"), "no hardware was named"),
    ],
)
def test_unknown_words_are_refused_with_the_known_ones(words: tuple[str, str, str], message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        read_questions(*words)
