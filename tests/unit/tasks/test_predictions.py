"""Predictions as text for people and as data for programs."""

import json

import ml_dtypes
import msgspec
import numpy as np
import pytest

from runoff.tasks.predictions import ArraysPrediction, ClassificationPrediction

PREDICTION = ClassificationPrediction(
    ("ant", "bee", "cat", "dog"), np.array([0.125, 0.5, 0.125, 0.25], dtype=np.float32)
)


def test_the_best_classes_come_first_and_equal_ones_by_id():
    assert PREDICTION.top(4) == [("bee", 0.5, 1), ("dog", 0.25, 3), ("ant", 0.125, 0), ("cat", 0.125, 2)]


@pytest.mark.parametrize(("k", "length"), [(0, 0), (-1, 0), (2, 2), (99, 4)])
def test_top_has_no_more_classes_than_asked_for_or_there_are(k: int, length: int):
    assert len(PREDICTION.top(k)) == length


def test_the_text_names_the_best_class_and_the_next_two():
    assert str(PREDICTION) == "bee (0.5000); then dog (0.2500), ant (0.1250)"


def test_the_text_names_one_class_when_there_is_one():
    assert str(ClassificationPrediction(("ant",), np.ones(1, np.float32))) == "ant (1.0000)"


def test_the_data_survive_json():
    data = json.loads(msgspec.json.encode(PREDICTION.to_dict(k=1)))
    assert data == {
        "label": "bee",
        "score": 0.5,
        "class_id": 1,
        "top": [{"label": "bee", "score": 0.5, "class_id": 1}],
    }


def test_a_prediction_cannot_be_changed():
    with pytest.raises(AttributeError):
        PREDICTION.labels = ()  # type: ignore[misc]


def test_arrays_are_read_by_name_when_the_model_has_no_task():
    prediction = ArraysPrediction({"a": np.array([[1.0, 3.0]], np.float32), "b": np.array([True])})
    assert list(prediction) == ["a", "b"]
    assert len(prediction) == 2
    assert prediction["a"].tolist() == [[1.0, 3.0]]
    assert str(prediction) == "a: float32[1, 2] from 1 to 3, mean 2\nb: bool[1]"


def test_arrays_survive_json_when_they_are_bf16():
    prediction = ArraysPrediction({"a": np.array([1.5], ml_dtypes.bfloat16)})
    data = json.loads(msgspec.json.encode(prediction.to_dict()))
    assert data == {"a": {"dtype": "bfloat16", "shape": [1], "values": [1.5]}}
