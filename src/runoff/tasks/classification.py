"""The task `image-classification`: an image in, the scores of all classes out.

Knows no runtime: it fills the model's one input and reads its one output of shape (N, C).
Axes: `N` rows, `C` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runoff.errors import InputError, ManifestInvalid
from runoff.models.arrays import Array, Arrays
from runoff.models.evaluation import class_outputs, top1_accuracy
from runoff.tasks.image import ImageInput, ImagePreprocess, parse_preprocess
from runoff.tasks.predictions import ClassificationPrediction
from runoff.tasks.run import Run
from runoff.types import Signature


class ClassificationPreprocess(ImagePreprocess, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of an image classifier: those of its image, and how its output becomes scores.

    Attributes:
        scores: `softmax` for logits of classes that exclude each other, `sigmoid` for logits of classes that do
            not, `none` for an output that holds scores already.
    """

    scores: Literal["softmax", "sigmoid", "none"] = "softmax"


class ImageClassification:
    """Image classification for one model.

    Args:
        signature: exactly one input, the image, and exactly one output of rank 2, (N, C).
        preprocess: see `ClassificationPreprocess`.
        labels: class names by class id; empty names the classes by their ids.

    Raises:
        ManifestInvalid: preprocess, labels and signature do not fit together.
    """

    id = "image-classification"
    metric_name = "accuracy"

    def __init__(self, signature: Signature, preprocess: dict[str, Any], labels: Sequence[str] = ()) -> None:
        options = parse_preprocess(preprocess, ClassificationPreprocess)
        outputs = [spec for spec in signature.outputs if len(spec.shape) == 2]
        if len(signature.inputs) != 1 or len(outputs) != 1:
            raise ManifestInvalid(
                "image-classification needs one input and one output of shape [batch, classes], the model has "
                f"{'; '.join(map(str, signature.inputs))} -> {'; '.join(map(str, signature.outputs))}"
            )
        num_classes = outputs[0].shape[1]
        if labels and isinstance(num_classes, int) and num_classes != len(labels):
            raise ManifestInvalid(f"the manifest names {len(labels)} labels, the model has {num_classes} classes")
        self._image = ImageInput(signature.inputs[0], options)
        self._input_name = signature.inputs[0].name
        self._scores = options.scores
        self._labels = tuple(labels)

    def is_many(self, value: object) -> bool:
        """Whether a value is several images; see `ImageInput.prepare`."""
        return self._image.is_many(value)

    def prepare(self, value: object) -> dict[str, Array]:
        """The model's input for one image or several; see `ImageInput.prepare`.

        Raises:
            InputError: not an image.
        """
        return {self._input_name: self._image.prepare(value)}

    def compute(self, run: Run, inputs: Arrays) -> Arrays:
        """One run."""
        return run(inputs)

    def predict(self, outputs: Arrays) -> list[ClassificationPrediction]:
        """One prediction for each row of the outputs.

        Raises:
            InputError: there is no (N, C) output, or it has other classes than the labels.
        """
        found = class_outputs(outputs).astype(np.float32)
        labels = self._labels or tuple(str(class_id) for class_id in range(found.shape[1]))
        if len(labels) != found.shape[1]:
            raise InputError(f"the model gave {found.shape[1]} classes, its manifest names {len(labels)} labels")
        scores = scores_of(found, self._scores)
        scores.setflags(write=False)
        return [ClassificationPrediction(labels, row) for row in scores]

    def metric(self, outputs: Arrays, labels: Array) -> float:
        """Top-1 accuracy, 0 to 1; see `top1_accuracy`."""
        return top1_accuracy(outputs, labels)


def scores_of(outputs: NDArray[np.float32], how: Literal["softmax", "sigmoid", "none"]) -> NDArray[np.float32]:
    """Class outputs (N, C) as scores of the same shape, without overflow for large logits."""
    if how == "none":
        return outputs
    if how == "sigmoid":
        # exp is only taken of what is not positive, so it cannot overflow.
        small = np.exp(-np.abs(outputs))
        sigmoid: NDArray[np.float32] = np.where(outputs >= 0, 1, small) / (1 + small)
        return sigmoid
    # An infinite logit gives NaN, which the prediction reports; numpy need not warn too.
    with np.errstate(invalid="ignore"):
        powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        softmax: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return softmax
