"""The signature of a Transformers model: its inputs by kind, its outputs by running it at two tiny sizes.

Dimensions are named `batch`, `sequence` (`decoder_sequence` for a decoder's own), `queries` where each image has texts
of its own, `samples` for bare sound, and `height` and `width` where no configuration fixes the image. Knows no session
and loads no weights.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from runoff.backends.torch_session import NAMES, first_line
from runoff.errors import FormatMismatch
from runoff.types import Dim, DType, Signature, TensorSpec

_PROBES: tuple[dict[str, int], dict[str, int]] = (
    {"batch": 2, "sequence": 5, "decoder_sequence": 4, "height": 64, "width": 96, "samples": 4000, "queries": 11},
    {"batch": 3, "sequence": 7, "decoder_sequence": 6, "height": 96, "width": 128, "samples": 4400, "queries": 13},
)
"""Sizes that all differ within a probe and between the two, so that a dimension of an output has one explanation."""

_DEFAULT_CHANNELS = 3
_QUERIED = ("owlvit", "owlv2")
"""Kinds of model that take several texts for each image, all in one axis."""
_FRAMES_PER_POSITION = 2
"""Whisper's encoder halves the frames of a spectrogram before it numbers them."""


def model_signature(model: Any, folder: Path) -> Signature:
    """The signature of a loaded model.

    Args:
        model: a `PreTrainedModel` in eval mode.
        folder: where it was loaded from; a `preprocessor_config.json` there may fix the image size.

    Raises:
        FormatMismatch: the model takes no text, image or sound, or fails on the probes.
    """
    inputs = _input_specs(model, folder)
    try:
        with torch.inference_mode():
            run = output_tensors(model)
            first, second = (run(_probe(inputs, sizes)) for sizes in _PROBES)
    except Exception as error:
        raise FormatMismatch(
            f"{type(model).__name__} does not run on {', '.join(str(spec) for spec in inputs)}: {first_line(error)}",
            hint="package it as a module with example inputs: runoff.package(module, inputs, folder)",
        ) from error
    outputs = tuple(_output_spec(name, tensor, second[name]) for name, tensor in first.items() if name in second)
    return Signature(inputs, outputs)


def output_tensors(model: Any) -> Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """A function that runs the model and answers the tensors of its output by name, without caches and the like."""
    # A cache of keys and values is of use only from one step of a generation to the next.
    fixed = {"use_cache": False} if "use_cache" in _parameters(model) else {}
    queried = _is_queried(model)

    def run(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        answer = model(**(_flat_queries(inputs) if queried else inputs), **fixed, return_dict=True)
        return {name: value for name, value in answer.items() if isinstance(value, torch.Tensor)}

    return run


def _is_queried(model: Any) -> bool:
    takes = _parameters(model)
    return model.config.model_type in _QUERIED and "input_ids" in takes and "pixel_values" in takes


def _flat_queries(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The texts of all images, [batch, queries, sequence], in one axis, [batch * queries, sequence]."""
    return {name: value if name == "pixel_values" else value.flatten(0, 1) for name, value in inputs.items()}


def _parameters(model: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(model.forward).parameters


def _input_specs(model: Any, folder: Path) -> tuple[TensorSpec, ...]:
    config, takes = model.config, _parameters(model)
    specs: list[TensorSpec] = []
    if _is_queried(model):
        # Its processor fills every text up to the length that the model has positions for.
        shape = ("batch", "queries", config.text_config.max_position_embeddings)
        specs += [TensorSpec(name, DType.INT64, shape) for name in ("input_ids", "attention_mask")]
    elif "input_ids" in takes:
        specs.append(_ids("input_ids"))
        if "attention_mask" in takes:
            specs.append(_ids("attention_mask"))
        if "token_type_ids" in takes and getattr(config, "type_vocab_size", 0) > 1:
            specs.append(_ids("token_type_ids"))
    if "pixel_values" in takes:
        specs.append(_image(config, folder))
    if not specs:
        specs += _sound(config, takes)
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in takes:
        specs.append(_ids("decoder_input_ids", "decoder_sequence"))
    if not specs:
        raise FormatMismatch(
            f"{type(model).__name__} takes neither input_ids nor pixel_values nor sound",
            hint="package it as a module with example inputs: runoff.package(module, inputs, folder)",
        )
    return tuple(specs)


def _ids(name: str, axis: str = "sequence") -> TensorSpec:
    return TensorSpec(name, DType.INT64, ("batch", axis))


def _sound(config: Any, takes: Mapping[str, inspect.Parameter]) -> list[TensorSpec]:
    """A waveform, or the spectrogram that the model's feature extractor makes of one; none for other models."""
    mels: int | None = getattr(config, "num_mel_bins", None)
    if "input_values" in takes:
        # A spectrogram stands frames first here, and mels first below.
        frames: int | None = getattr(config, "max_length", None)
        shape: tuple[Dim, ...] = ("batch", frames, mels) if frames and mels else ("batch", "samples")
        return [TensorSpec("input_values", DType.FP32, shape)]
    positions: int | None = getattr(config, "max_source_positions", None)
    if "input_features" in takes and config.model_type == "whisper" and mels and positions:
        return [TensorSpec("input_features", DType.FP32, ("batch", mels, _FRAMES_PER_POSITION * positions))]
    return []


def _image(config: Any, folder: Path) -> TensorSpec:
    config = getattr(config, "vision_config", None) or getattr(config, "encoder", None) or config
    height, width = _pair(getattr(config, "image_size", None)) or _preprocessor_size(folder) or ("height", "width")
    channels = getattr(config, "num_channels", _DEFAULT_CHANNELS)
    return TensorSpec("pixel_values", DType.FP32, ("batch", channels, height, width))


def _preprocessor_size(folder: Path) -> tuple[int, int] | None:
    """The size that the image processor beside the model cuts images to."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatMismatch(f"{path} is not JSON: {error}") from error
    if settings.get("do_center_crop", True) and settings.get("crop_size"):
        return _pair(settings["crop_size"])
    size = settings.get("size")
    # A longest edge beside the shortest keeps the aspect ratio, so that every image gets a size of its own.
    return None if isinstance(size, dict) and "longest_edge" in size else _pair(size)


def _pair(size: Any) -> tuple[int, int] | None:
    """Height and width of a number, a pair, or a mapping, as configurations write them."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[0]), int(size[1])
    if isinstance(size, dict) and {"height", "width"} <= size.keys():
        return int(size["height"]), int(size["width"])
    if isinstance(size, dict) and isinstance(size.get("shortest_edge"), int):
        return size["shortest_edge"], size["shortest_edge"]
    return None


def _probe(specs: tuple[TensorSpec, ...], sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
    probe = {}
    for spec in specs:
        shape = [dim if isinstance(dim, int) else sizes[dim] for dim in spec.shape]
        dtype = torch.int64 if spec.dtype is DType.INT64 else torch.float32
        # Ones are a known token, a mask that hides nothing, and no constant that a normalisation divides by zero.
        probe[spec.name] = (
            torch.zeros(shape, dtype=dtype) if spec.name == "token_type_ids" else torch.ones(shape, dtype=dtype)
        )
    return probe


def _output_spec(name: str, first: torch.Tensor, second: torch.Tensor) -> TensorSpec:
    if first.ndim != second.ndim:
        raise FormatMismatch(
            f"output {name!r} has {first.ndim} dimensions at one input size and {second.ndim} at another"
        )
    dtype = DType.FP32 if first.is_floating_point() else NAMES[first.dtype]
    dims = tuple(_dim(name, i, sizes) for i, sizes in enumerate(zip(first.shape, second.shape, strict=True)))
    return TensorSpec(name, dtype, dims)


def _dim(name: str, axis: int, sizes: tuple[int, int]) -> Dim:
    if sizes[0] == sizes[1]:
        return sizes[0]
    for label in _PROBES[0]:
        if sizes == (_PROBES[0][label], _PROBES[1][label]):
            return label
    return f"{name}_dim_{axis}"
