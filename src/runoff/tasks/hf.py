"""The tasks of Hugging Face folders, through the processor files in them: text classification, and text from images.

Knows no runtime: whatever package answers, the ids and pixels are those that Transformers makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np

from runoff.errors import InputError, ManifestInvalid
from runoff.models.arrays import Array, Arrays
from runoff.models.evaluation import class_outputs, top1_accuracy
from runoff.tasks.classification import scores_of
from runoff.tasks.generation import GenerationOptions, write_greedily
from runoff.tasks.hf_folder import Processor, ProcessorOptions, listed, rgb
from runoff.tasks.image import parse_preprocess
from runoff.tasks.predictions import ClassificationPrediction, TextPrediction
from runoff.tasks.run import Run
from runoff.types import Signature


class TextOptions(ProcessorOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of a text classifier; `scores` as in `ClassificationPreprocess`."""

    scores: Literal["softmax", "sigmoid", "none"] = "softmax"


class TextClassification:
    """Text classification for one model.

    Args:
        signature: int64 `input_ids` and what goes with them, and one output of rank 2, (N, C).
        preprocess: see `TextOptions`.
        labels: class names by class id; empty names the classes by their ids.

    Raises:
        ManifestInvalid: preprocess and signature do not fit the task.
    """

    id = "text-classification"
    metric_name = "accuracy"

    def __init__(self, signature: Signature, preprocess: dict[str, Any], labels: Sequence[str] = ()) -> None:
        options = parse_preprocess(preprocess, TextOptions)
        self._names = tuple(spec.name for spec in signature.inputs)
        if "input_ids" not in self._names:
            raise ManifestInvalid(f"text-classification needs the input input_ids, there are {', '.join(self._names)}")
        self._processor = Processor(options.processor)
        self._scores = options.scores
        self._labels = tuple(labels)

    def is_many(self, value: object) -> bool:
        """Whether a value is several texts, or arrays by name, which hold several rows."""
        return isinstance(value, (list, tuple, Mapping))

    def prepare(self, value: object) -> dict[str, Array]:
        """The token ids of one text or of several, filled up to the longest; arrays by name pass as they are.

        Raises:
            InputError: neither text nor arrays, or the model's folder has no tokenizer.
        """
        if isinstance(value, Mapping):
            return dict(value)
        texts = listed(value, str, "a text")
        found = self._processor.open().tokenize(cast("list[str]", texts))
        return {name: found[name] for name in self._names if name in found}

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
        return [ClassificationPrediction(labels, row) for row in scores_of(found, self._scores)]

    def metric(self, outputs: Arrays, labels: Array) -> float:
        """Top-1 accuracy, 0 to 1; see `top1_accuracy`."""
        return top1_accuracy(outputs, labels)


class ImageToText:
    """Text from an image by an encoder and a decoder, as TrOCR reads a line: the likeliest token at each step.

    The decoder runs over all that it has written so far at each step, and the encoder with it, since a package answers
    logits and keeps no state from run to run.

    Args:
        signature: `pixel_values` and `decoder_input_ids`, and the output `logits`, (N, tokens, vocabulary).
        preprocess: see `GenerationOptions`.
        labels: none.

    Raises:
        ManifestInvalid: preprocess and signature do not fit the task.
    """

    id = "image-to-text"
    metric_name = None

    def __init__(self, signature: Signature, preprocess: dict[str, Any], labels: Sequence[str] = ()) -> None:
        del labels
        self._options = parse_preprocess(preprocess, GenerationOptions)
        names = {spec.name for spec in signature.inputs}
        if names != {"pixel_values", "decoder_input_ids"}:
            raise ManifestInvalid(
                "image-to-text needs the inputs pixel_values and decoder_input_ids, there are "
                f"{', '.join(sorted(names))}"
            )
        self._processor = Processor(self._options.processor)

    def is_many(self, value: object) -> bool:
        """Whether a value is several images, or arrays by name, which hold several rows."""
        return isinstance(value, (list, tuple, Mapping))

    def prepare(self, value: object) -> dict[str, Array]:
        """The pixels of one image or of several, and the token that each text begins with.

        Raises:
            InputError: neither images nor arrays, or the model's folder has no image processor.
        """
        if isinstance(value, Mapping):
            arrays = dict(value)
        else:
            images = [rgb(image) for image in listed(value, object, "an image")]
            arrays = {"pixel_values": self._processor.open().pixels(images)}
        rows = len(arrays["pixel_values"])
        return {"decoder_input_ids": np.full((rows, 1), self._options.start_token, np.int64), **arrays}

    def compute(self, run: Run, inputs: Arrays) -> Arrays:
        """Token ids by greedy search: `sequences`, int64, shape (N, tokens), those of the start included."""
        ids = inputs["decoder_input_ids"]
        return {"sequences": write_greedily(lambda ids: run({**inputs, "decoder_input_ids": ids}), ids, self._options)}

    def predict(self, outputs: Arrays) -> list[TextPrediction]:
        """One text for each row of `sequences`.

        Raises:
            InputError: the model's folder has no tokenizer.
        """
        ids = outputs["sequences"]
        texts = self._processor.open().decode(ids)
        return [TextPrediction(text, row) for text, row in zip(texts, ids, strict=True)]

    def metric(self, outputs: Arrays, labels: Array) -> float:
        """Refused: there is no figure for texts.

        Raises:
            InputError: always.
        """
        raise InputError("the task image-to-text has no metric")
