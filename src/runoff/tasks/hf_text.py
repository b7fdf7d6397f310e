"""Texts through the tokenizer of a Hugging Face folder: entities, answers, gaps and embeddings.

Knows no runtime. Axes: `N` texts, `T` tokens, `C` classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runoff.errors import InputError
from runoff.models.arrays import Array, Arrays
from runoff.tasks.hf_folder import (
    IDS,
    MASK,
    OFFSETS,
    OWN_TOKENS,
    TEXTS,
    ProcessorOptions,
    ProcessorTask,
    class_names,
    fields_of,
    listed,
    softmax,
)
from runoff.tasks.image import parse_preprocess
from runoff.tasks.predictions import (
    AnswerPrediction,
    EmbeddingPrediction,
    EntitiesPrediction,
    Entity,
    GapsPrediction,
    TokenScore,
)
from runoff.types import Signature

_OUTSIDE = "O"
"""The label of tokens that belong to no entity."""


class AnswerOptions(ProcessorOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of question answering; `max_answer_tokens` is the longest answer."""

    max_answer_tokens: int = 15


class GapOptions(ProcessorOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of fill-mask; `top` is the number of tokens for each gap."""

    top: int = 5


class EmbeddingOptions(ProcessorOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How hidden states become features.

    Attributes:
        pooling: the `mean` or `max` over the tokens, the first token (`cls`), or `none`: all tokens.
        normalize: whether features are scaled to length 1.
        max_tokens: longer texts are cut; None for what the tokenizer says.
    """

    pooling: Literal["none", "mean", "max", "cls"] = "none"
    normalize: bool = False
    max_tokens: int | None = None


class TokenClassification(ProcessorTask):
    """Entities in a text: neighbouring tokens of one label, `B-` beginning a new one, their scores averaged.

    Args:
        signature: `input_ids` and what goes with them, and the output `logits`, (N, T, C).
        preprocess: see `ProcessorOptions`.
        labels: class names by class id; the class `O` is left out.

    Raises:
        ManifestInvalid: preprocess and signature do not fit the task.
    """

    id = "token-classification"

    def __init__(self, signature: Signature, preprocess: dict[str, Any], labels: Sequence[str] = ()) -> None:
        super().__init__(signature, parse_preprocess(preprocess, ProcessorOptions).processor, ["input_ids", "logits"])
        self._labels = tuple(labels)

    def _prepared(self, value: object) -> dict[str, Array]:
        texts = listed(value, str, "a text")
        found, offsets, own = self._processor.open().align(texts)
        return {**self._tokens(found), OFFSETS: offsets, OWN_TOKENS: own, TEXTS: np.array(texts)}

    def _predictions(self, outputs: Arrays) -> list[EntitiesPrediction]:
        scores = softmax(outputs["logits"])
        labels = class_names(self._labels, scores.shape[-1])
        rows = zip(map(str, outputs[TEXTS]), scores, outputs[OFFSETS], outputs[OWN_TOKENS], strict=True)
        return [
            EntitiesPrediction(text, tuple(_entities(text, row[own], offsets[own], labels)))
            for text, row, offsets, own in rows
        ]


def _entities(text: str, scores: Array, offsets: Array, labels: Sequence[str]) -> Iterator[Entity]:
    """The entities of one text, by the scores (T, C) and offsets (T, 2) of its tokens."""
    groups: list[tuple[str, list[int]]] = []
    best = scores.argmax(axis=-1)
    for index, class_id in enumerate(best):
        label = labels[class_id]
        begins, name = label.startswith("B-"), label[2:] if label[:2] in ("B-", "I-") else label
        if groups and groups[-1][0] == name and not begins:
            groups[-1][1].append(index)
        else:
            groups.append((name, [index]))
    for name, tokens in groups:
        if name != _OUTSIDE:
            start, end = int(offsets[tokens[0], 0]), int(offsets[tokens[-1], 1])
            score = float(np.mean([scores[token, best[token]] for token in tokens]))
            yield Entity(name.split("-", 1)[-1], score, text[start:end], start, end)


class QuestionAnswering(ProcessorTask):
    """The span of a context that answers a question.

    Takes `{"question": text, "context": text}`, or a list of such. The score of a span is the softmax of its first
    token, over the tokens of the context, times that of its last.

    Args:
        signature: `input_ids` and what goes with them, and the outputs `start_logits` and `end_logits`, (N, T).
        preprocess: see `AnswerOptions`.
        labels: none.

    Raises:
        ManifestInvalid: preprocess and signature do not fit the task.
    """

    id = "question-answering"

    def __init__(self, signature: Signature, preprocess: dict[str, Any], labels: Sequence[str] = ()) -> None:
        del labels
        options = parse_preprocess(preprocess, AnswerOptions)
        super().__init__(signature, options.processor, ["input_ids", "start_logits", "end_logits"])
        self._longest = options.max_answer_tokens

    def _prepared(self, value: object) -> dict[str, Array]:
        found = fields_of(value, ["question", "context"], '{"question": "who?", "context": "Ada wrote it."}')
        questions, contexts = (
            [listed(one[name], str, f"a text as {name}")[0] for one in found] for name in ("question", "context")
        )
        tokens, offsets, own = self._processor.open().align(questions, contexts, cut=False)
        if not own.any(axis=1).all():
            raise InputError("the context is empty")
        return {**self._tokens(tokens), OFFSETS: offsets, OWN_TOKENS: own, TEXTS: np.array(contexts)}

    def _predictions(self, outputs: Arrays) -> list[AnswerPrediction]:
        names = (TEXTS, "start_logits", "end_logits", OFFSETS, OWN_TOKENS)
        return [self._answer(*row) for row in zip(*(outputs[name] for name in names), strict=True)]

    def _answer(self, context: object, starts: Array, ends: Array, offsets: Array, own: Array) -> AnswerPrediction:
        places = offsets[own]
        scores = np.outer(softmax(starts[own]), softmax(ends[own]))
        # An answer ends where it begins or after, and within its longest length.
        scores = np.triu(scores) - np.triu(scores, self._longest)
        first, last = np.unravel_index(scores.argmax(), scores.shape)
        start, end = int(places[first, 0]), int(places[last, 1])
        return AnswerPrediction(str(context)[start:end], float(scores[first, last]), start, end)


class FillMask(ProcessorTask):
    """The likeliest tokens for each gap in a text; a gap is the tokenizer's mask token, such as `[MASK]`.

    Args:
        signature: `input_ids` and what goes with them, and the output `logits`, (N, T, vocabulary).
        preprocess: see `GapOptions`.
        labels: none.

    Raises:
        ManifestInvalid: preprocess and signature do not fit the task.
    """

    id = "fill-mask"

    def __init__(self, signature: Signature, preprocess: dict[str, Any], labels: Sequence[str] = ()) -> None:
        del labels
        options = parse_preprocess(preprocess, GapOptions)
        super().__init__(signature, options.processor, ["input_ids", "logits"])
        self._top = options.top

    def _prepared(self, value: object) -> dict[str, Array]:
        texts = listed(value, str, "a text")
        processor = self._processor.open()
        mask, mask_id = processor.mask_token()
        found = processor.tokenize(texts, cut=False)
        for text, ids in zip(texts, found["input_ids"], strict=True):
            if mask_id not in ids:
                raise InputError(f"the text {text!r} has no gap", hint=f"write {mask} where a token is wanted")
        return {**self._tokens(found), IDS: found["input_ids"]}

    def _predictions(self, outputs: Arrays) -> list[GapsPrediction]:
        processor = self._processor.open()
        _, mask_id = processor.mask_token()
        rows = zip(outputs["logits"], outputs[IDS], strict=True)
        return [
            GapsPrediction(tuple(self._tokens_for(scores) for scores in softmax(row[ids == mask_id])))
            for row, ids in rows
        ]

    def _tokens_for(self, scores: NDArray[np.float32]) -> tuple[TokenScore, ...]:
        name = self._processor.open().name
        order = np.argsort(-scores, kind="stable")[: self._top]
        return tuple(TokenScore(name(int(token)), float(scores[token]), int(token)) for token in order)


class FeatureExtraction(ProcessorTask):
    """The features of a text: its tokens' hidden states, or one embedding where the folder says how to pool them.

    Args:
        signature: `input_ids` and what goes with them, and the output `last_hidden_state`, (N, T, dimensions).
        preprocess: see `EmbeddingOptions`.
        labels: none.

    Raises:
        ManifestInvalid: preprocess and signature do not fit the task.
    """

    id = "feature-extraction"

    def __init__(self, signature: Signature, preprocess: dict[str, Any], labels: Sequence[str] = ()) -> None:
        del labels
        self._options = parse_preprocess(preprocess, EmbeddingOptions)
        super().__init__(signature, self._options.processor, ["input_ids", "last_hidden_state"])

    def _prepared(self, value: object) -> dict[str, Array]:
        texts = listed(value, str, "a text")
        found = self._processor.open().tokenize(texts, longest=self._options.max_tokens)
        return {**self._tokens(found), MASK: found["attention_mask"]}

    def _predictions(self, outputs: Arrays) -> list[EmbeddingPrediction]:
        rows = zip(outputs["last_hidden_state"], outputs[MASK], strict=True)
        return [EmbeddingPrediction(self._features(states[mask > 0].astype(np.float32))) for states, mask in rows]

    def _features(self, states: Any) -> Any:
        """Features of the hidden states (T, dimensions) of one text without padding."""
        how = self._options.pooling
        pooled = {
            "none": lambda: states,
            "mean": lambda: states.mean(axis=0),
            "max": lambda: states.max(axis=0),
            "cls": lambda: states[0],
        }[how]()
        if not self._options.normalize:
            return pooled
        return pooled / np.maximum(np.linalg.norm(pooled, axis=-1, keepdims=True), 1e-12)
