"""Images through the image processor of a Hugging Face folder: classes, objects, and objects that texts name.

Knows no runtime. Boxes come as centre and size in shares of the image, and leave as corners in its pixels.
Axes: `N` images, `Q` boxes, `C` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runoff.errors import InputError, ManifestInvalid
from runoff.models.arrays import Array, Arrays
from runoff.models.evaluation import class_outputs, top1_accuracy
from runoff.tasks.classification import scores_of
from runoff.tasks.hf_folder import SIZES, TEXTS, ProcessorOptions, ProcessorTask, class_names, fields_of, listed, rgb
from runoff.tasks.hf_folder import softmax as softmax_of
from runoff.tasks.image import parse_preprocess
from runoff.tasks.predictions import ClassificationPrediction, DetectedObject, DetectionPrediction
from runoff.types import Signature


class HfImageOptions(ProcessorOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of an image classifier; `scores` as in `ClassificationPreprocess`."""

    scores: Literal["softmax", "sigmoid", "none"] = "softmax"


class DetectionOptions(ProcessorOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of a detector.

    Attributes:
        threshold: objects with a smaller or equal score are left out.
        boxes: what boxes are shares of: the `image`, or the `square` that it was padded to, as OWLv2 does.
    """

    threshold: float = 0.5
    boxes: Literal["image", "square"] = "image"


class _ImageTask(ProcessorTask):
    """What image tasks have in common: the pixels."""

    def _pixels(self, images: Sequence[Array]) -> Array:
        size = self._inputs["pixel_values"].shape[-2:]
        fixed = (size[0], size[1]) if isinstance(size[0], int) and isinstance(size[1], int) else None
        found: Array = self._processor.open().pixels(images, fixed)
        return found


class HfImageClassification(_ImageTask):
    """Image classification of a Hugging Face folder.

    Args:
        signature: the input `pixel_values`, and one output of rank 2, (N, C).
        preprocess: see `HfImageOptions`.
        labels: class names by class id; empty names the classes by their ids.

    Raises:
        ManifestInvalid: preprocess and signature do not fit the task.
    """

    id = "image-classification"
    metric_name = "accuracy"

    def __init__(self, signature: Signature, preprocess: dict[str, Any], labels: Sequence[str] = ()) -> None:
        options = parse_preprocess(preprocess, HfImageOptions)
        super().__init__(signature, options.processor, ["pixel_values"])
        self._scores = options.scores
        self._labels = tuple(labels)

    def _prepared(self, value: object) -> dict[str, Array]:
        return {"pixel_values": self._pixels([rgb(image) for image in listed(value, object, "an image")])}

    def predict(self, outputs: Arrays) -> list[ClassificationPrediction]:
        """One prediction for each row of the outputs, of arrays by name too.

        Raises:
            InputError: there is no (N, C) output, or it has other classes than the labels.
        """
        return self._predictions(outputs)

    def _predictions(self, outputs: Arrays) -> list[ClassificationPrediction]:
        found = class_outputs(outputs).astype(np.float32)
        labels = class_names(self._labels, found.shape[1])
        return [ClassificationPrediction(labels, row) for row in scores_of(found, self._scores)]

    def is_many(self, value: object) -> bool:
        """Whether a value is several images, or arrays by name, which hold several rows."""
        return isinstance(value, (list, tuple, dict))

    def metric(self, outputs: Arrays, labels: Array) -> float:
        """Top-1 accuracy, 0 to 1; see `top1_accuracy`."""
        return top1_accuracy(outputs, labels)


class ObjectDetection(_ImageTask):
    """Objects in an image, as DETR and YOLOS answer: a softmax whose last class means that there is none.

    Args:
        signature: the input `pixel_values`, and the outputs `logits` (N, Q, C + 1) and `pred_boxes` (N, Q, 4).
        preprocess: see `DetectionOptions`.
        labels: class names by class id; empty names the classes by their ids.

    Raises:
        ManifestInvalid: preprocess and signature do not fit the task.
    """

    id = "object-detection"

    def __init__(self, signature: Signature, preprocess: dict[str, Any], labels: Sequence[str] = ()) -> None:
        self._options = parse_preprocess(preprocess, DetectionOptions)
        super().__init__(signature, self._options.processor, ["pixel_values", "logits", "pred_boxes"])
        self._labels = tuple(labels)

    def _prepared(self, value: object) -> dict[str, Array]:
        images = [rgb(image) for image in listed(value, object, "an image")]
        return {"pixel_values": self._pixels(images), SIZES: _sizes(images)}

    def _predictions(self, outputs: Arrays) -> list[DetectionPrediction]:
        scores = softmax_of(outputs["logits"])[..., :-1]
        # Some checkpoints name a few classes fewer than there are.
        names = [*self._labels, *map(str, range(len(self._labels), scores.shape[-1]))]
        boxes = _corners(outputs["pred_boxes"], outputs[SIZES])
        return [
            _objects(row.max(axis=-1), [names[i] for i in row.argmax(axis=-1)], box, self._options.threshold)
            for row, box in zip(scores, boxes, strict=True)
        ]


class ZeroShotObjectDetection(_ImageTask):
    """Objects that texts name, as OWL-ViT and OWLv2 answer: for each box the text that fits best.

    Takes `{"image": image, "texts": [text, ...]}`, or a list of such with equally many texts.

    Args:
        signature: the inputs `input_ids` and `attention_mask`, (N, queries, tokens), and `pixel_values`; the outputs
            `logits` (N, Q, queries) and `pred_boxes` (N, Q, 4).
        preprocess: see `DetectionOptions`.
        labels: none.

    Raises:
        ManifestInvalid: preprocess and signature do not fit the task.
    """

    id = "zero-shot-object-detection"

    def __init__(self, signature: Signature, preprocess: dict[str, Any], labels: Sequence[str] = ()) -> None:
        del labels
        self._options = parse_preprocess({"threshold": 0.1, **preprocess}, DetectionOptions)
        super().__init__(signature, self._options.processor, ["input_ids", "pixel_values", "logits", "pred_boxes"])
        shape = self._inputs["input_ids"].shape
        if len(shape) != 3 or not isinstance(shape[2], int):
            raise ManifestInvalid(f"{self.id} needs input_ids [batch, queries, tokens], the model takes {shape}")
        self._length = shape[2]

    def _prepared(self, value: object) -> dict[str, Array]:
        found = fields_of(value, ["image", "texts"], '{"image": "street.png", "texts": ["a bus", "a tram"]}')
        texts = [listed(one["texts"], str, "texts") for one in found]
        if len({len(row) for row in texts}) > 1:
            raise InputError("the images of a batch have different numbers of texts", hint="ask one image at a time")
        images = [rgb(one["image"]) for one in found]
        flat = self._processor.open().tokenize([text for row in texts for text in row], length=self._length)
        queries = {name: ids.reshape(len(found), -1, self._length) for name, ids in self._tokens(flat).items()}
        return {**queries, "pixel_values": self._pixels(images), SIZES: _sizes(images), TEXTS: np.array(texts)}

    def _predictions(self, outputs: Arrays) -> list[DetectionPrediction]:
        logits = outputs["logits"].astype(np.float32)
        best = logits.argmax(axis=-1)
        sizes = outputs[SIZES]
        if self._options.boxes == "square":
            sizes = np.repeat(sizes.max(axis=1, keepdims=True), 2, axis=1)
        boxes = _corners(outputs["pred_boxes"], sizes)
        rows = zip(scores_of(logits.max(axis=-1), "sigmoid"), best, outputs[TEXTS], boxes, strict=True)
        return [
            _objects(scores, [str(texts[i]) for i in chosen], box, self._options.threshold)
            for scores, chosen, texts, box in rows
        ]


def _sizes(images: Sequence[Array]) -> Array:
    return np.array([image.shape[:2] for image in images], np.int64)


def _corners(boxes: Array, sizes: Array) -> Array:
    """Boxes (N, Q, 4) of centre and size, in shares of heights and widths (N, 2), as corners in pixels, fp32."""
    centres, halves = boxes[..., :2].astype(np.float32), boxes[..., 2:].astype(np.float32) / 2
    scale = np.tile(sizes[:, ::-1], (1, 2)).astype(np.float32)
    found: Array = np.concatenate([centres - halves, centres + halves], axis=-1) * scale[:, None]
    return found


def _objects(scores: NDArray[np.float32], names: Sequence[str], boxes: Array, threshold: float) -> DetectionPrediction:
    order = [int(index) for index in np.argsort(-scores, kind="stable") if scores[index] > threshold]
    corners = boxes.tolist()
    return DetectionPrediction(
        tuple(DetectedObject(names[index], float(scores[index]), tuple(corners[index])) for index in order)
    )
