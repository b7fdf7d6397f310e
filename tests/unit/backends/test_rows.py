"""Any number of rows through a package that was made for one batch size."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from fakes.tiny_onnx import expected, make_tiny_onnx
from runoff import AutoModel
from runoff.errors import InputError
from runoff.models.folder import update_package


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    made = make_tiny_onnx(tmp_path / "net", backends=("onnx",))
    return update_package(made.root, msgspec.structs.replace(made.reference.entry, batch=2)).root


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
def test_rows_are_answered_in_order_whatever_their_number(folder: Path, rows: int) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
    with AutoModel.from_pretrained(folder) as model:
        outputs = model.run({"x": x})
        assert model.signature.inputs[0].shape == ("batch", 4)
        assert model.facts["rows_at_a_time"] == 2
    np.testing.assert_allclose(outputs["y"], expected(x), rtol=1e-6)


def test_bad_inputs_are_refused_before_they_are_parted(folder: Path) -> None:
    with AutoModel.from_pretrained(folder) as model:
        with pytest.raises(InputError, match="is empty"):
            model.run({"x": np.zeros((0, 4), np.float32)})
        with pytest.raises(InputError, match="axis 1 must be 4"):
            model.run({"x": np.zeros((3, 5), np.float32)})
