import warnings
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import msgspec
import numpy as np
import pytest

from fakes.fake_models import make_fake_model
from fakes.plugin_site import plugged_in
from fakes.race_facts import environment
from runoff.backends import table
from runoff.errors import InputError, SessionClosed
from runoff.model import Explanation, Model, NotANumberWarning
from runoff.models.folder import ModelFolder, change_manifest
from runoff.models.manifest import Manifest
from runoff.race.decide import decide
from runoff.race.wish import Wish
from runoff.types import DType, Signature, TensorSpec


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path) -> Iterator[None]:
    with plugged_in(tmp_path / "site"):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return make_fake_model(tmp_path / "model", {"plain": {"factor": 2.0}})


def open_model(folder: ModelFolder) -> Model:
    decision = decide(folder.manifest, environment(), Wish(), None)
    candidate = decision.require()
    session = table.backend("fake").open(folder.package(candidate.package_id), candidate.session_options())
    return Model(folder, candidate, session, decision)


def of_dtype(folder: ModelFolder, dtype: DType) -> ModelFolder:
    def change(manifest: Manifest) -> Manifest:
        specs = (TensorSpec("x", dtype, ("batch", 4)),)
        return msgspec.structs.replace(manifest, signature=Signature(specs, (TensorSpec("y", dtype, ("batch", 4)),)))

    return change_manifest(folder.root, change)


def test_run_computes_and_properties_tell_what_runs(folder) -> None:
    with open_model(folder) as model:
        x = np.arange(8, dtype=np.float32).reshape(2, 4)
        assert np.array_equal(model.run({"x": x})["y"], 2 * x)
        assert model.package.id == "plain"
        assert model.candidate.id == "plain"
        assert model.signature == folder.manifest.signature
        assert model.facts["runtime"] == "fake 1.0"
        assert repr(model) == "<Model 'model' running plain>"


def test_call_answers_arrays_when_the_model_has_no_task(folder) -> None:
    with open_model(folder) as model:
        prediction = model({"x": np.ones((1, 4), np.float32)})
        assert prediction.to_dict()
        assert model.task is model.task, "made once"


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"z": np.zeros((1, 4), np.float32)},
        {"x": np.zeros((1, 4), np.float32), "z": np.zeros(1)},
        {"x": np.zeros((1, 4), np.float64)},
        {"x": np.zeros(4, np.float32)},
        {"x": np.zeros((1, 5), np.float32)},
        {"x": np.zeros((0, 4), np.float32)},
        {"x": [[0.0] * 4]},
    ],
    ids=["none", "name", "extra", "dtype", "rank", "dim", "empty", "list"],
)
def test_inputs_that_do_not_fit_are_refused_and_the_expectation_named(folder, inputs) -> None:
    with open_model(folder) as model, pytest.raises(InputError, match=r"x: fp32\[batch, 4\]"):
        model.run(inputs)


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype"),
    [
        (DType.FP64, np.float64),
        (DType.FP32, np.float32),
        (DType.FP16, np.float16),
        (DType.BF16, ml_dtypes.bfloat16),
    ],
)
def test_nan_is_computed_and_reported_with_its_count(folder, dtype, numpy_dtype) -> None:
    x = np.ones((2, 4), np.float32)
    x[0, 1] = x[1, 3] = np.nan
    with open_model(of_dtype(folder, dtype)) as model:
        with pytest.warns(NotANumberWarning, match="input 'x' holds 2 NaN values") as caught:
            outputs = model.run({"x": x.astype(numpy_dtype)})
        assert Path(caught[0].filename) == Path(__file__), "the caller's line is shown"
        assert np.isnan(outputs["y"].astype(np.float32)).sum() == 2


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype"),
    [
        (DType.FP64, np.float64),
        (DType.FP32, np.float32),
        (DType.FP16, np.float16),
        (DType.BF16, ml_dtypes.bfloat16),
        (DType.INT64, np.int64),
    ],
)
def test_infinite_and_huge_values_are_no_nan(folder, dtype, numpy_dtype) -> None:
    largest = np.iinfo(np.int32).max if dtype is DType.INT64 else ml_dtypes.finfo(numpy_dtype).max
    rows = [[largest, largest, -1.0, 0.0]]
    if dtype is not DType.INT64:
        rows.append([np.inf, -np.inf, np.inf, 1.0])
    x = np.array(rows).astype(numpy_dtype)
    with open_model(of_dtype(folder, dtype)) as model, warnings.catch_warnings():
        warnings.simplefilter("error", NotANumberWarning)
        warnings.filterwarnings("ignore", "overflow encountered")  # of the fake's multiplication
        model.run({"x": x})


def test_nan_is_found_in_arrays_that_are_not_contiguous(folder) -> None:
    x = np.ones((4, 2), np.float16)
    x[3, 1] = np.nan
    with open_model(of_dtype(folder, DType.FP16)) as model, pytest.warns(NotANumberWarning, match="1 NaN value$"):
        model.run({"x": x.T})


def test_run_after_close_is_refused_and_close_twice_is_fine(folder) -> None:
    model = open_model(folder)
    model.close()
    model.close()
    with pytest.raises(SessionClosed):
        model.run({"x": np.zeros((1, 4), np.float32)})


def test_explanation_is_text_and_plain_data(folder) -> None:
    with open_model(folder) as model:
        explanation = model.explain()
    assert isinstance(explanation, Explanation)
    assert str(explanation).startswith("model: plain, guessed")
    assert explanation.data["chosen"]["id"] == "plain"
    msgspec.json.encode(explanation.data)
