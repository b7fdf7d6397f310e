"""What a race makes first: packages at the precisions that were named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from fakes.onnx_models import onnx_folder
from fakes.packages import spec
from runoff.models.folder import ModelFolder
from runoff.race.options import RaceOptions
from runoff.race.run import race_folder
from runoff.types import Precision, Signature

QUICK = {"rounds": 1, "max_rounds": 1, "turn_s": 0.01, "min_runs": 2, "warmup_s": 0.01, "num_threads": (1,)}


@pytest.fixture
def model(tmp_path: Path) -> ModelFolder:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((16, 16)).astype(np.float32)
    signature = Signature((spec("x", "batch", 16),), (spec("y", "batch", 16),))
    return onnx_folder(tmp_path / "net", [helper.make_node("MatMul", ["x", "w"], ["y"])], signature, {"w": weights})


def test_named_precisions_are_made_and_race(model: ModelFolder) -> None:
    options = RaceOptions(precisions=(Precision.INT8,), backends=("onnx", "openvino"), **QUICK)  # type: ignore[arg-type]
    result = race_folder(model, options)
    assert {e.candidate.package_id for e in result.record.entrants} == {
        *("onnx-int8-static", "onnx-int8-dynamic", "openvino-int8")
    }
    assert {e.runs_at for e in result.record.entrants} == {Precision.INT8}
    assert result.decision.chosen is not None
    assert any(note.startswith("onnx-int8-static: calibrated on normal-v1 seed 1") for note in result.notes)


def test_nothing_is_quantised_unless_asked(model: ModelFolder) -> None:
    result = race_folder(model, RaceOptions(backends=("onnx",), **QUICK))  # type: ignore[arg-type]
    assert [package.id for package in result.folder.packages] == ["onnx-fp32"]


def test_form_that_cannot_be_made_is_rejected_with_the_reason(tmp_path: Path) -> None:
    signature = Signature((spec("x", "batch", 4),), (spec("y", "batch", 4),))
    folder = onnx_folder(tmp_path / "net", [helper.make_node("Sigmoid", ["x"], ["y"])], signature)
    options = RaceOptions(precisions=(Precision.FP32, Precision.INT8), backends=("onnx",), **QUICK)  # type: ignore[arg-type]
    result = race_folder(folder, options)
    reasons = {rejection.candidate_id: rejection.reason for rejection in result.decision.rejections}
    assert "nothing in onnx-fp32 can be quantised" in reasons["onnx-int8-static"]
    assert result.decision.chosen is not None
