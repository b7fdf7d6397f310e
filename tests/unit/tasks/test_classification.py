"""Image classification: outputs into scores and predictions, and what does not fit together."""

import math
from typing import Any

import numpy as np
import pytest

from runoff.errors import InputError, ManifestInvalid
from runoff.tasks.classification import ImageClassification
from runoff.types import DType, Signature, TensorSpec

PREPROCESS = {"size": [2, 2], "color": "gray"}
IMAGE = TensorSpec("image", DType.FP32, ("batch", 1, 2, 2))
LOGITS = TensorSpec("logits", DType.FP32, ("batch", 3))
SIGNATURE = Signature((IMAGE,), (LOGITS,))
LABELS = ("ant", "bee", "cat")


def predict(scores: str, *rows: list[float]) -> list[Any]:
    task = ImageClassification(SIGNATURE, {**PREPROCESS, "scores": scores}, LABELS)
    return task.predict({"logits": np.array(rows, dtype=np.float32)})


def test_scores_are_shares_of_one_when_the_outputs_are_logits():
    (prediction,) = predict("softmax", [0.0, math.log(2), 0.0])
    np.testing.assert_allclose(prediction.scores, [0.25, 0.5, 0.25], rtol=1e-6)
    assert (prediction.label, prediction.class_id) == ("bee", 1)
    assert prediction.score == pytest.approx(0.5)


def test_scores_are_independent_when_the_outputs_are_sigmoid_logits():
    (prediction,) = predict("sigmoid", [0.0, math.log(3), -math.log(3)])
    np.testing.assert_allclose(prediction.scores, [0.5, 0.75, 0.25], rtol=1e-6)


def test_scores_are_the_outputs_when_nothing_is_asked_for():
    assert predict("none", [0.2, 0.7, 0.1])[0].scores.tolist() == pytest.approx([0.2, 0.7, 0.1])


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_scores_stay_finite_when_logits_are_large(scores: str):
    (prediction,) = predict(scores, [1e4, -1e4, 0.0])
    assert prediction.scores.tolist() == [1.0, 0.0, 0.0 if scores == "softmax" else 0.5]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_prediction_says_so_when_the_model_answers_no_numbers(bad: float):
    (prediction,) = predict("softmax", [bad, 0.0, 0.0])
    assert str(prediction) == "no class: the model's scores are NaN"


def test_scores_cannot_be_changed_afterwards():
    (prediction,) = predict("none", [0.2, 0.7, 0.1])
    with pytest.raises(ValueError, match="read-only"):
        prediction.scores[0] = 1


def test_there_is_one_prediction_a_row():
    assert [found.label for found in predict("softmax", [0, 0, 1], [1, 0, 0])] == ["cat", "ant"]


def test_classes_are_named_by_their_ids_when_there_are_no_labels():
    task = ImageClassification(SIGNATURE, PREPROCESS)
    assert task.predict({"logits": np.array([[0, 0, 1]], np.float32)})[0].label == "2"


def test_the_image_goes_to_the_only_input():
    task = ImageClassification(SIGNATURE, PREPROCESS, LABELS)
    inputs = task.prepare(np.full((2, 2), 255, np.uint8))
    assert list(inputs) == ["image"]
    assert inputs["image"].tolist() == [[[[1, 1], [1, 1]]]]


@pytest.mark.parametrize(
    ("signature", "preprocess", "labels", "said"),
    [
        (SIGNATURE, PREPROCESS, ("ant", "bee"), "2 labels, the model has 3 classes"),
        (SIGNATURE, {}, LABELS, "missing required field `size`"),
        (SIGNATURE, {**PREPROCESS, "score": "none"}, LABELS, "unknown field `score`"),
        (SIGNATURE, {**PREPROCESS, "scores": "argmax"}, LABELS, "argmax"),
        (SIGNATURE, {"size": [8, 8], "color": "gray"}, LABELS, "the model takes image"),
        (Signature((IMAGE, IMAGE), (LOGITS,)), PREPROCESS, LABELS, "one input"),
        (Signature((IMAGE,), (LOGITS, LOGITS)), PREPROCESS, LABELS, "one output"),
        (Signature((IMAGE,), (IMAGE,)), PREPROCESS, LABELS, "one output"),
    ],
)
def test_the_task_is_refused_when_the_manifest_does_not_fit(
    signature: Signature, preprocess: dict[str, Any], labels: tuple[str, ...], said: str
):
    with pytest.raises(ManifestInvalid) as caught:
        ImageClassification(signature, preprocess, labels)
    assert said in caught.value.message


def test_outputs_are_refused_when_they_have_other_classes_than_the_labels():
    free = Signature((IMAGE,), (TensorSpec("logits", DType.FP32, ("batch", "classes")),))
    task = ImageClassification(free, PREPROCESS, LABELS)
    with pytest.raises(InputError, match="4 classes"):
        task.predict({"logits": np.zeros((1, 4), np.float32)})


def test_the_metric_is_top1_accuracy():
    task = ImageClassification(SIGNATURE, PREPROCESS, LABELS)
    outputs = {"logits": np.array([[0, 0, 1], [1, 0, 0]], np.float32)}
    assert task.metric_name == "accuracy"
    assert task.metric(outputs, np.array([2, 1])) == 0.5
