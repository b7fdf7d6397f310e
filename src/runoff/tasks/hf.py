"""The tasks of Hugging Face folders, through the processor files in them: text classification, and text from images.

Knows no runtime: whatever package answers, the ids and pixels are those that Transformers makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
import numpy as np

from runoff.backends import table
from runoff.errors import InputError, ManifestInvalid
from runoff.models.arrays import Array, Arrays
from runoff.models.evaluation import class_outputs, top1_accuracy
from runoff.tasks.classification import scores_of
from runoff.tasks.image import in_color, load_image, parse_preprocess
from runoff.tasks.predictions import ClassificationPrediction, TextPrediction
from runoff.tasks.run import Run
from runoff.types import Signature


class ProcessorOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the processor files are.

    Attributes:
        processor: folder of the tokenizer and of the image processor.
    """

    processor: str


class TextOptions(ProcessorOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of a text classifier; `scores` as in `ClassificationPreprocess`."""

    scores: Literal["softmax", "sigmoid", "none"] = "softmax"


class GenerationOptions(ProcessorOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How text is generated: the likeliest token at each step.

    Attributes:
        start_token: the id that every text begins with.
        end_tokens: ids that end a text; empty where only the length does.
        pad_token: the id that stands behind the end of a text while others of its batch go on.
        max_new_tokens: the longest text.
    """

    start_token: int
    end_tokens: tuple[int, ...] = ()
    pad_token: int = 0
    max_new_tokens: int = 64


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
        self._processor = _Processor(options.processor)
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
        texts = _listed(value, str, "a text")
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
        self._processor = _Processor(self._options.processor)

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
            images = _listed(value, object, "an image")
            pixels = [in_color(load_image(image), "rgb") for image in images]
            arrays = {"pixel_values": self._processor.open().pixels([image.astype(np.uint8) for image in pixels])}
        rows = len(arrays["pixel_values"])
        return {"decoder_input_ids": np.full((rows, 1), self._options.start_token, np.int64), **arrays}

    def compute(self, run: Run, inputs: Arrays) -> Arrays:
        """Token ids by greedy search: `sequences`, int64, shape (N, tokens), those of the start included."""
        options = self._options
        ids = inputs["decoder_input_ids"]
        is_done = np.zeros(len(ids), bool)
        for _ in range(options.max_new_tokens):
            logits = run({**inputs, "decoder_input_ids": ids})["logits"]
            token = np.where(is_done, options.pad_token, logits[:, -1].argmax(axis=-1))
            ids = np.concatenate([ids, token[:, None]], axis=1)
            is_done |= np.isin(token, options.end_tokens)
            if is_done.all():
                break
        return {"sequences": ids}

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


class _Processor:
    """The processor files of a folder, opened when they are first needed."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._opened: Any = None

    def open(self) -> Any:
        """The `HfProcessor` of the folder.

        Raises:
            InputError: Transformers is not installed.
        """
        if self._opened is None:
            try:
                kind = table.load("runoff.tasks.hf_processor:HfProcessor")
            except ImportError as error:
                raise InputError(
                    f"the processor files of this model need Transformers: {error}",
                    hint="pip install 'runoff[hf]', or pass arrays by name",
                ) from error
            self._opened = kind(self._folder)
        return self._opened


def _listed(value: object, kind: type, what: str) -> list[object]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values:
        raise InputError("the list is empty")
    for found in values:
        if not isinstance(found, kind):
            raise InputError(
                f"this model takes {what}, several in a list, or arrays by name, not a {type(found).__name__}"
            )
    return values
