"""What the tasks of Hugging Face folders have in common: the processor files, and what goes past the model.

A task's `prepare` adds arrays whose names begin with `given_`, such as the sizes of the images; `compute` keeps them
from the model and hands them to `predict`. Knows no runtime and no task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from runoff.backends import table
from runoff.errors import InputError, ManifestInvalid
from runoff.models.arrays import Array, Arrays
from runoff.tasks.image import in_color, load_image
from runoff.tasks.predictions import ArraysPrediction, Prediction
from runoff.tasks.run import Run
from runoff.types import Signature

_GIVEN = "given_"
TEXTS = "given_texts"
"""Strings as they were given, shape (N,), or (N, queries)."""
SIZES = "given_sizes"
"""Height and width of each image in pixels, int64, shape (N, 2)."""
OFFSETS = "given_offsets"
"""Where each token begins and ends in its text, in characters, int64, shape (N, T, 2)."""
OWN_TOKENS = "given_own_tokens"
"""Whether a token is of the text that answers point into, bool, shape (N, T)."""
IDS = "given_ids"
"""The token ids, int64, shape (N, T)."""
MASK = "given_mask"
"""1 for tokens and 0 for padding, int64, shape (N, T)."""


class ProcessorOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the processor files are.

    Attributes:
        processor: folder of the tokenizer and of the image processor.
    """

    processor: str


class Processor:
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


class ProcessorTask(ABC):
    """One run of a model between the processor's arrays and predictions; arrays by name are answered by arrays.

    Args:
        signature: the model's.
        processor: folder of the processor files.
        needed: inputs and outputs without which the task makes no sense.

    Raises:
        ManifestInvalid: one of `needed` is missing.
    """

    id: ClassVar[str]
    metric_name: ClassVar[str | None] = None

    def __init__(self, signature: Signature, processor: str, needed: Sequence[str]) -> None:
        self._inputs = {spec.name: spec for spec in signature.inputs}
        outputs = [spec.name for spec in signature.outputs]
        missing = [name for name in needed if name not in (*self._inputs, *outputs)]
        if missing:
            raise ManifestInvalid(
                f"{self.id} needs {', '.join(missing)}; the model has the inputs {', '.join(self._inputs)} and the "
                f"outputs {', '.join(outputs)}"
            )
        self._processor = Processor(processor)

    def is_many(self, value: object) -> bool:
        """Whether a value is several inputs in a list."""
        return isinstance(value, (list, tuple))

    def prepare(self, value: object) -> dict[str, Array]:
        """The model's arrays for one input or a list of them, with what `predict` needs besides.

        Raises:
            InputError: not what the task takes, or the model's folder lacks a processor file.
        """
        if isinstance(value, Mapping) and self._inputs.keys() & value.keys():
            return dict(value)
        return self._prepared(value)

    @abstractmethod
    def _prepared(self, value: object) -> dict[str, Array]:
        """As `prepare`, for what is not arrays by name."""

    def compute(self, run: Run, inputs: Arrays) -> Arrays:
        """One run; what was given goes past the model."""
        given = {name: array for name, array in inputs.items() if name.startswith(_GIVEN)}
        return {**run({name: array for name, array in inputs.items() if name not in given}), **given}

    def predict(self, outputs: Arrays) -> Sequence[Prediction]:
        """One prediction for each input; for arrays by name one that holds all outputs.

        Raises:
            InputError: the outputs are not of the task, or the model's folder lacks a processor file.
        """
        if not any(name.startswith(_GIVEN) for name in outputs):
            return [ArraysPrediction(dict(outputs))]
        return self._predictions(outputs)

    @abstractmethod
    def _predictions(self, outputs: Arrays) -> Sequence[Prediction]:
        """As `predict`, for outputs with what was given."""

    def metric(self, outputs: Arrays, labels: Array) -> float:
        """Refused: labels are class ids, and this task answers no class for each row.

        Raises:
            InputError: always.
        """
        raise InputError(f"the task {self.id} has no metric")

    def _tokens(self, found: Arrays) -> dict[str, Array]:
        """The arrays that the model takes, of those that the tokenizer makes."""
        return {name: array for name, array in found.items() if name in self._inputs}


def listed(value: object, kind: type, what: str) -> list[Any]:
    """A value or a list of them as a list.

    Raises:
        InputError: empty, or one is not of the kind.
    """
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values:
        raise InputError("the list is empty")
    for found in values:
        if not isinstance(found, kind):
            raise InputError(
                f"this model takes {what}, several in a list, or arrays by name, not a {type(found).__name__}"
            )
    return values


def fields_of(value: object, names: Sequence[str], example: str) -> list[dict[str, Any]]:
    """Inputs of several parts, one or a list of them.

    Raises:
        InputError: not objects with exactly these fields.
    """
    hint = f"such as {example}"
    values: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values:
        raise InputError("the list is empty", hint=hint)
    wanted = f"this model takes an object of {' and '.join(names)}, or arrays by name"
    for found in values:
        if not isinstance(found, Mapping):
            raise InputError(f"{wanted}, not a {type(found).__name__}", hint=hint)
        if set(found) != set(names):
            raise InputError(f"{wanted}, not one of {', '.join(map(str, found)) or 'nothing'}", hint=hint)
    return [dict(found) for found in values]


def rgb(image: object) -> Array:
    """An image as uint8 (height, width, 3), red first; see `load_image`."""
    return np.asarray(in_color(load_image(image), "rgb")).astype(np.uint8)


def softmax(logits: Array) -> NDArray[np.float32]:
    """Along the last axis, in fp32."""
    values = logits.astype(np.float32)
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    found: NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return found


def class_names(labels: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """The labels, or the class ids where there are none.

    Raises:
        InputError: there are labels of another number than classes.
    """
    if labels and len(labels) != num_classes:
        raise InputError(f"the model gave {num_classes} classes, its manifest names {len(labels)} labels")
    return tuple(labels) or tuple(str(class_id) for class_id in range(num_classes))
