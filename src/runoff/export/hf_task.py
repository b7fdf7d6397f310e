"""What an adopted Hugging Face folder is for: task, preprocess and class names, by its configuration and signature.

Knows no library: reads the JSON files that Transformers wrote beside the weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from runoff.types import Signature

_MAX_NEW_TOKENS = 64
"""For a model whose files name no length."""


class HfTask(msgspec.Struct, frozen=True):
    """The manifest's task, preprocess and labels; nothing where the folder is of no kind that has a task here."""

    task: str | None = None
    preprocess: dict[str, Any] = {}
    labels: tuple[str, ...] = ()


def find_task(config: dict[str, Any], folder: Path, place: str, signature: Signature) -> HfTask:
    """The task of a folder.

    Args:
        config: its `config.json`.
        folder: where its files are.
        place: the same, relative to the model folder.
        signature: its inputs and outputs.
    """
    names = config.get("architectures") or [""]
    inputs = {spec.name for spec in signature.inputs}
    rank_2 = [spec for spec in signature.outputs if len(spec.shape) == 2]
    if str(names[0]).endswith("ForSequenceClassification") and "input_ids" in inputs and len(rank_2) == 1:
        scores = {"multi_label_classification": "sigmoid", "regression": "none"}
        chosen = scores.get(str(config.get("problem_type")), "softmax")
        return HfTask(
            "text-classification", {"processor": place, "scores": chosen}, _labels(config, rank_2[0].shape[1])
        )
    if inputs == {"pixel_values", "decoder_input_ids"}:
        generation = _generation(config, folder)
        if generation is not None:
            return HfTask("image-to-text", {"processor": place, **generation})
    return HfTask()


def _labels(config: dict[str, Any], num_classes: int | str) -> tuple[str, ...]:
    """The class names by class id, where there is a printable one for each class."""
    given = config.get("id2label")
    if not isinstance(given, dict):
        return ()
    found = [given.get(str(class_id)) for class_id in range(len(given))]
    names = tuple(name.strip() for name in found if isinstance(name, str) and name.isprintable() and name.strip())
    return names if len(names) == len(given) == num_classes else ()


def _generation(config: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """How the model writes; None where nothing says which token a text begins with."""
    known = {**config, **_read(folder / "generation_config.json")}
    decoder = config.get("decoder")
    for name, value in (decoder if isinstance(decoder, dict) else {}).items():
        if known.get(name) is None:
            known[name] = value
    start = known.get("decoder_start_token_id")
    if not isinstance(start, int):
        return None
    ends = known.get("eos_token_id")
    pad = known.get("pad_token_id")
    longest = known.get("max_new_tokens") or (known.get("max_length") or _MAX_NEW_TOKENS + 1) - 1
    longest = longest if isinstance(longest, int) and longest > 0 else _MAX_NEW_TOKENS
    positions = known.get("max_position_embeddings")
    if isinstance(positions, int) and positions > 1:
        longest = min(longest, positions - 1)
    return {
        "start_token": start,
        "end_tokens": [end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int)],
        "pad_token": pad if isinstance(pad, int) else 0,
        "max_new_tokens": longest,
    }


def _read(path: Path) -> dict[str, Any]:
    """A JSON object without its empty fields; none where the file is missing or no object."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in found.items() if value is not None} if isinstance(found, dict) else {}
