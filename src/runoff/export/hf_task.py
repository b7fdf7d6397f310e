"""What an adopted Hugging Face folder is for: task, preprocess and class names, by its configuration and signature.

Knows no library: reads the JSON files that Transformers wrote beside the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
    name = str((config.get("architectures") or [""])[0])
    kind = _Kind(config, folder, place, signature)
    for ending, finder in _BY_CLASS.items():
        if name.endswith(ending):
            found = finder(kind)
            if found is not None:
                return found
    if kind.inputs == {"pixel_values", "decoder_input_ids"}:
        generation = _generation(config, folder)
        if generation is not None:
            return HfTask("image-to-text", {"processor": place, **generation})
    return _features(kind) or HfTask()


class _Kind(msgspec.Struct, frozen=True):
    """What is known of a folder; see `find_task`."""

    config: dict[str, Any]
    folder: Path
    place: str
    signature: Signature

    @property
    def inputs(self) -> set[str]:
        return {spec.name for spec in self.signature.inputs}

    @property
    def outputs(self) -> dict[str, int]:
        """The ranks of the outputs."""
        return {spec.name: len(spec.shape) for spec in self.signature.outputs}

    @property
    def is_text(self) -> bool:
        return "input_ids" in self.inputs and not self.inputs & {"pixel_values", "decoder_input_ids"}

    def task(self, task: str, *, num_classes: int | str | None = None, **options: Any) -> HfTask:
        labels = () if num_classes is None else _labels(self.config, num_classes)
        return HfTask(task, {"processor": self.place, **options}, labels)


def _classification(task: str, source: str) -> Callable[[_Kind], HfTask | None]:
    def find(kind: _Kind) -> HfTask | None:
        rank_2 = [spec for spec in kind.signature.outputs if len(spec.shape) == 2]
        if source not in kind.inputs or len(rank_2) != 1:
            return None
        scores = {"multi_label_classification": "sigmoid", "regression": "none"}
        chosen = scores.get(str(kind.config.get("problem_type")), "softmax")
        return kind.task(task, num_classes=rank_2[0].shape[1], scores=chosen)

    return find


def _tokens(kind: _Kind) -> HfTask | None:
    logits = [spec for spec in kind.signature.outputs if spec.name == "logits" and len(spec.shape) == 3]
    if not kind.is_text or not logits:
        return None
    return kind.task("token-classification", num_classes=logits[0].shape[2])


def _answers(kind: _Kind) -> HfTask | None:
    found = kind.is_text and {"start_logits", "end_logits"} <= kind.outputs.keys()
    return kind.task("question-answering") if found else None


def _gaps(kind: _Kind) -> HfTask | None:
    return kind.task("fill-mask") if kind.is_text and kind.outputs.get("logits") == 3 else None


def _objects(kind: _Kind) -> HfTask | None:
    if not {"logits", "pred_boxes"} <= kind.outputs.keys():
        return None
    model_type = str(kind.config.get("model_type"))
    if model_type in ("owlvit", "owlv2"):
        boxes = "square" if model_type == "owlv2" else "image"
        return kind.task("zero-shot-object-detection", boxes=boxes)
    if model_type in _SOFTMAX_DETECTORS and kind.inputs == {"pixel_values"}:
        logits = next(spec for spec in kind.signature.outputs if spec.name == "logits")
        classes = logits.shape[-1]
        return kind.task("object-detection", num_classes=classes - 1 if isinstance(classes, int) else classes)
    return None


def _frames(kind: _Kind) -> HfTask | None:
    found = kind.inputs == {"input_values"} and kind.outputs.get("logits") == 3
    return kind.task("automatic-speech-recognition") if found else None


def _speech(kind: _Kind) -> HfTask | None:
    """Whisper: what stands before the text, and what it never writes, as its generation configuration says."""
    written = _generation(kind.config, kind.folder)
    if kind.inputs != {"input_features", "decoder_input_ids"} or written is None:
        return None
    known = {**kind.config, **_read(kind.folder / "generation_config.json")}
    prompt: dict[str, Any] = {}
    languages, tasks = known.get("lang_to_id"), known.get("task_to_id")
    if isinstance(languages, dict) and languages:
        prompt["languages"] = [token for token in languages.values() if isinstance(token, int)]
        transcribe = tasks.get("transcribe") if isinstance(tasks, dict) else None
        prompt["prompt"] = [transcribe] if isinstance(transcribe, int) else []
    if isinstance(known.get("no_timestamps_token_id"), int):
        prompt["prompt"] = [*prompt.get("prompt", []), known["no_timestamps_token_id"]]
    for option, name in (("suppressed", "suppress_tokens"), ("suppressed_first", "begin_suppress_tokens")):
        ids = known.get(name)
        if isinstance(ids, list) and ids:
            prompt[option] = [token for token in ids if isinstance(token, int)]
    # What stands before the text takes positions of the decoder too.
    positions = known.get("max_target_positions")
    if isinstance(positions, int):
        before = 1 + bool(prompt.get("languages")) + len(prompt.get("prompt", []))
        written["max_new_tokens"] = max(min(written["max_new_tokens"], positions - before), 1)
    return kind.task("automatic-speech-recognition", **written, **prompt)


def _features(kind: _Kind) -> HfTask | None:
    """Hidden states, pooled as Sentence Transformers' files beside the model say."""
    if not kind.is_text or kind.outputs.get("last_hidden_state") != 3:
        return None
    path = kind.folder / "modules.json"
    if not path.is_file():
        return kind.task("feature-extraction")
    try:
        modules = json.loads(path.read_bytes())
        kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
        folders = [str(module["path"]) for module in modules]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    # Any other module changes the features, and none of them may be left out.
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or folders[0]:
        return None
    if Path(folders[1]).is_absolute() or ".." in Path(folders[1]).parts:
        return None
    pooling = _read(kind.folder / folders[1] / "config.json")
    modes = [name for name, chosen in pooling.items() if name.startswith("pooling_mode_") and chosen is True]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        return None
    longest = _read(kind.folder / "sentence_bert_config.json").get("max_seq_length")
    limit = {"max_tokens": longest} if isinstance(longest, int) and longest > 0 else {}
    return kind.task("feature-extraction", pooling=_POOLINGS[modes[0]], normalize="Normalize" in kinds, **limit)


_SOFTMAX_DETECTORS = ("detr", "yolos", "table-transformer")
"""Detectors whose last class means that there is no object; later ones of the family score by sigmoids."""
_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max", "pooling_mode_cls_token": "cls"}
_BY_CLASS: Mapping[str, Callable[[_Kind], HfTask | None]] = {
    "ForSequenceClassification": _classification("text-classification", "input_ids"),
    "ForImageClassification": _classification("image-classification", "pixel_values"),
    "ForTokenClassification": _tokens,
    "ForQuestionAnswering": _answers,
    "ForMaskedLM": _gaps,
    "ForObjectDetection": _objects,
    "ForCTC": _frames,
    "WhisperForConditionalGeneration": _speech,
}
"""What finds the task, by the end of the name of the model's class."""


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
