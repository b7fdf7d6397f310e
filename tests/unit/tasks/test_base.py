"""The table of tasks, and the order in which a task, a model and an input meet."""

import numpy as np
import pytest

from runoff.errors import InputError, UnknownName
from runoff.models.arrays import Arrays
from runoff.models.evaluation import metric_for
from runoff.models.manifest import FileEntry, Manifest, PackageEntry
from runoff.tasks.base import TASKS, answer, task_for
from runoff.tasks.predictions import ArraysPrediction, ClassificationPrediction
from runoff.types import DType, Precision, Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("image", DType.FP32, ("batch", 1, 1, 2)),), (TensorSpec("logits", DType.FP32, ("batch", 2)),)
)
FILE = FileEntry("packages/onnx-fp32/model.onnx", "0" * 64, 1)
PACKAGE = PackageEntry("onnx-fp32", "onnx", "onnx", Precision.FP32, (FILE,))
LABELS = ("left", "right")


def manifest(task: str | None) -> Manifest:
    preprocess = {"size": [1, 2], "color": "gray"} if task == "image-classification" else {}
    return Manifest(1, "sides", "onnx-fp32", SIGNATURE, (PACKAGE,), task=task, preprocess=preprocess)


def run(inputs: Arrays) -> Arrays:
    return {"logits": inputs["image"].reshape(-1, 2)}


def test_one_prediction_is_answered_when_one_image_is_given():
    task = task_for(manifest("image-classification"), LABELS)
    prediction = answer(task, np.array([[0, 255]], np.uint8), run)
    assert isinstance(prediction, ClassificationPrediction)
    assert prediction.label == "right"


@pytest.mark.parametrize("count", [1, 2])
def test_a_list_is_answered_when_a_list_is_given(count: int):
    task = task_for(manifest("image-classification"), LABELS)
    predictions = answer(task, [np.array([[255, 0]], np.uint8)] * count, run)
    assert isinstance(predictions, list)
    assert [found.to_dict()["label"] for found in predictions] == ["left"] * count


@pytest.mark.parametrize("named", [True, False])
def test_arrays_are_answered_when_the_model_has_no_task(named: bool):
    task = task_for(manifest(None))
    image = np.zeros((3, 1, 1, 2), np.float32)
    prediction = answer(task, {"image": image} if named else image, run)
    assert isinstance(prediction, ArraysPrediction)
    assert prediction["logits"].shape == (3, 2)


def test_other_values_are_refused_when_the_model_has_no_task():
    with pytest.raises(InputError, match=r"takes arrays by name \(image\), not a str"):
        task_for(manifest(None)).prepare("7.png")


def test_there_is_no_metric_when_the_model_has_no_task():
    task = task_for(manifest(None))
    assert task.metric_name is None
    with pytest.raises(InputError, match="no metric"):
        task.metric({}, np.zeros(1, np.int64))


def test_an_unknown_task_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownName, match="known: tensors, image-classification") as caught:
        task_for(manifest("image-clasification"))
    assert caught.value.hint == "did you mean 'image-classification'?"


@pytest.mark.parametrize("task_id", TASKS)
def test_a_race_measures_the_metric_of_the_task(task_id: str):
    # A class says it of all its models.
    name = getattr(TASKS[task_id], "metric_name", "missing")
    found = metric_for(task_id)
    assert (found[0] if found else None) == name
