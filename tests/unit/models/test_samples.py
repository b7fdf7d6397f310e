from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from runoff.errors import InputError
from runoff.models.arrays import InputCheck
from runoff.models.samples import batch_dimension, describe_samples, generate_inputs, resize_rows
from runoff.types import DType, Signature, TensorSpec

TEXT = Signature(
    (
        TensorSpec("input_ids", DType.INT64, ("batch", "sequence")),
        TensorSpec("attention_mask", DType.INT64, ("batch", "sequence")),
        TensorSpec("token_type_ids", DType.INT64, ("batch", "sequence")),
        TensorSpec("position_ids", DType.INT64, ("batch", "sequence")),
    ),
    (TensorSpec("logits", DType.FP32, ("batch", 2)),),
)


def _one(dtype: DType, shape: tuple[int | str, ...] = ("batch", 50)) -> Signature:
    return Signature((TensorSpec("x", dtype, shape),), (TensorSpec("y", DType.FP32, ("batch",)),))


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype is not DType.STRING])
def test_inputs_fit_the_signature_for_every_dtype(dtype: DType) -> None:
    signature = _one(dtype)
    arrays = generate_inputs(signature, rows=3, seed=0)
    InputCheck(signature)(arrays)
    assert arrays["x"].shape == (3, 50)
    assert len(np.unique(arrays["x"].astype(np.float64))) > 1


def test_inputs_are_the_same_for_the_same_seed_only() -> None:
    first, again, other = (generate_inputs(_one(DType.FP32), rows=2, seed=seed)["x"] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_generator_is_pinned_when_records_name_it() -> None:
    value = generate_inputs(_one(DType.FP32, ("batch", 2)), rows=1, seed=0)["x"]
    assert np.allclose(value, np.random.default_rng(0).standard_normal((1, 2), dtype=np.float32))
    assert describe_samples(0) == "normal-v1 seed 0"


def test_text_inputs_mean_what_their_names_say() -> None:
    arrays = generate_inputs(TEXT, rows=2, seed=0, sizes={"sequence": 7}, limits={"input_ids": 5})
    assert arrays["input_ids"].shape == (2, 7)
    assert arrays["input_ids"].min() >= 0 and arrays["input_ids"].max() < 5
    assert (arrays["attention_mask"] == 1).all()
    assert (arrays["token_type_ids"] == 0).all()
    assert (arrays["position_ids"] == np.arange(7)).all()


def test_strings_are_refused() -> None:
    with pytest.raises(InputError, match="strings cannot be guessed"):
        generate_inputs(_one(DType.STRING), rows=1, seed=0)


def test_fixed_batch_is_kept_whatever_rows_say() -> None:
    signature = _one(DType.BF16, (4, 2))
    assert batch_dimension(signature) is None
    array = generate_inputs(signature, rows=9, seed=0)["x"]
    assert array.shape == (4, 2)
    assert array.dtype == ml_dtypes.bfloat16


def test_named_first_axis_is_the_batch_when_none_is_called_so() -> None:
    assert batch_dimension(_one(DType.FP32, ("N", 2))) == "N"


def test_rows_are_cut_and_repeated() -> None:
    arrays = {"x": np.arange(6, dtype=np.float32).reshape(3, 2)}
    signature = _one(DType.FP32, ("batch", 2))
    assert resize_rows(signature, arrays, 2)["x"].tolist() == [[0, 1], [2, 3]]
    assert resize_rows(signature, arrays, 4)["x"].tolist() == [[0, 1], [2, 3], [4, 5], [0, 1]]
