"""What a model answers, typed: one prediction a row, or plain arrays where the model has no task.

Knows neither images nor runtimes. Axes: `C` classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from runoff.models.arrays import Array

_SHOWN = 3


class Prediction(Protocol):
    """What every task answers: text for people by `str`, data for programs by `to_dict`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        ...


class ClassScore(NamedTuple):
    """One class with its score."""

    label: str
    score: float
    class_id: int


@dataclass(frozen=True, slots=True, eq=False)
class ClassificationPrediction:
    """The scores of all classes for one input.

    Attributes:
        labels: the class names, by class id.
        scores: shape (C,), float32; NaN where the model's output is NaN, which leaves the best class undefined.
    """

    labels: tuple[str, ...]
    scores: NDArray[np.float32]

    @property
    def class_id(self) -> int:
        """The class with the largest score."""
        return int(self.scores.argmax())

    @property
    def label(self) -> str:
        """The name of the class with the largest score."""
        return self.labels[self.class_id]

    @property
    def score(self) -> float:
        """The largest score."""
        return float(self.scores[self.class_id])

    def top(self, k: int = 5) -> list[ClassScore]:
        """The `k` best classes, or all where there are fewer, best first; equal scores stand by class id."""
        order = np.argsort(-self.scores, kind="stable")[: max(k, 0)]
        return [ClassScore(self.labels[index], float(self.scores[index]), int(index)) for index in order]

    def to_dict(self, k: int = 5) -> dict[str, Any]:
        """Plain values for JSON: the best class and the `k` best."""
        return {
            "label": self.label,
            "score": self.score,
            "class_id": self.class_id,
            "top": [found._asdict() for found in self.top(k)],
        }

    def __str__(self) -> str:
        if np.isnan(self.scores).any():
            return "no class: the model's scores are NaN"
        best, *others = [f"{found.label} ({found.score:.4f})" for found in self.top(_SHOWN)]
        return f"{best}; then {', '.join(others)}" if others else best


@dataclass(frozen=True, slots=True, eq=False)
class TextPrediction:
    """A text that a model wrote.

    Attributes:
        token_ids: shape (T,), int64: the tokens of the text with those that begin and end it.
    """

    text: str
    token_ids: Array

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"text": self.text, "token_ids": self.token_ids.tolist()}

    def __str__(self) -> str:
        return self.text


class DetectedObject(NamedTuple):
    """One object in an image; its box is left, top, right and bottom, in pixels of the image as it was given."""

    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class DetectionPrediction(Sequence[DetectedObject]):
    """The objects in an image, the surest first."""

    objects: tuple[DetectedObject, ...]

    @overload
    def __getitem__(self, index: int) -> DetectedObject: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[DetectedObject, ...]: ...

    def __getitem__(self, index: int | slice) -> DetectedObject | tuple[DetectedObject, ...]:
        return self.objects[index]

    def __len__(self) -> int:
        return len(self.objects)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"objects": [{**found._asdict(), "box": list(found.box)} for found in self.objects]}

    def __str__(self) -> str:
        lines = [
            f"{found.label} ({found.score:.4f}) at " + ", ".join(f"{edge:.0f}" for edge in found.box)
            for found in self.objects
        ]
        return "; ".join(lines) or "no object"


class Entity(NamedTuple):
    """A piece of a text with its label; `start` and `end` count characters."""

    label: str
    score: float
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class EntitiesPrediction:
    """The labelled pieces of a text, in its order."""

    text: str
    entities: tuple[Entity, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"entities": [found._asdict() for found in self.entities]}

    def __str__(self) -> str:
        return ", ".join(f"{one.text!r} {one.label} ({one.score:.4f})" for one in self.entities) or "no entity"


@dataclass(frozen=True, slots=True)
class AnswerPrediction:
    """The part of a context that answers a question; `start` and `end` count its characters."""

    answer: str
    score: float
    start: int
    end: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"answer": self.answer, "score": self.score, "start": self.start, "end": self.end}

    def __str__(self) -> str:
        return f"{self.answer} ({self.score:.4f})"


class TokenScore(NamedTuple):
    """A token for a gap in a text."""

    token: str
    score: float
    token_id: int


@dataclass(frozen=True, slots=True, eq=False)
class GapsPrediction:
    """The likeliest tokens for each gap in a text, best first."""

    gaps: tuple[tuple[TokenScore, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"gaps": [[found._asdict() for found in gap] for gap in self.gaps]}

    def __str__(self) -> str:
        return "; ".join(", ".join(f"{one.token} ({one.score:.4f})" for one in gap[:_SHOWN]) for gap in self.gaps)


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingPrediction:
    """The features of a text.

    Attributes:
        values: float32; shape (dimensions,) where the tokens are pooled, else (tokens, dimensions).
    """

    values: NDArray[np.float32]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"embedding": self.values.tolist()}

    def __str__(self) -> str:
        shown = ", ".join(f"{value:.4f}" for value in self.values.reshape(-1)[:_SHOWN])
        return f"fp32{list(self.values.shape)} {shown}, ... (length {np.linalg.norm(self.values):.4f})"


@dataclass(frozen=True, slots=True, eq=False)
class ArraysPrediction(Mapping[str, Array]):
    """The outputs of a model without a task, by name, as the session returned them."""

    outputs: dict[str, Array]

    def __getitem__(self, name: str) -> Array:
        return self.outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: dtype, shape and nested lists of each output."""
        return {
            name: {"dtype": str(array.dtype), "shape": list(array.shape), "values": array.tolist()}
            for name, array in self.outputs.items()
        }

    def __str__(self) -> str:
        return "\n".join(_describe(name, array) for name, array in self.outputs.items())


def _describe(name: str, array: Array) -> str:
    text = f"{name}: {array.dtype}{list(array.shape)}"
    if array.size == 0 or array.dtype.kind in "OUSb":
        return text
    values = array.astype(np.float64)
    return f"{text} from {values.min():.4g} to {values.max():.4g}, mean {values.mean():.4g}"
