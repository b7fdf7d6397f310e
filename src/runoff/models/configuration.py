"""What the configuration of a Transformers model says about its inputs: how long they may be, and how large token ids.

Reads `config.json` as data; knows no runtime.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from runoff.errors import ModelError
from runoff.models.folder import ModelFolder
from runoff.models.samples import DEFAULT_LIMIT, DEFAULT_SIZE, DEFAULT_SIZES

_KEYS = ("max_position_embeddings", "n_positions", "max_target_positions")
_OFFSET = 2
"""Positions that some models, such as RoBERTa, leave unused at the start of their table."""


def sizes_within(config: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of `sequence` and `decoder_sequence` that fit a short table of positions; empty where the usual ones do."""
    text = config.get("text_config")
    places = [config, text] if isinstance(text, dict) else [config]
    found = [place[key] for place in places for key in _KEYS if isinstance(place.get(key), int) and place[key] > 0]
    longest = max(1, min(found, default=DEFAULT_SIZE + _OFFSET) - _OFFSET)
    if longest >= DEFAULT_SIZE:
        return {}
    return {"sequence": longest, "decoder_sequence": max(1, min(DEFAULT_SIZES["decoder_sequence"], longest - 1))}


def token_limits(config: Mapping[str, Any]) -> dict[str, int]:
    """The vocabulary size, below which token ids stay."""
    inner = [config.get(part) for part in ("text_config", "decoder")]
    sizes = [part.get("vocab_size") for part in (config, *inner) if isinstance(part, dict)]
    size = next((found for found in sizes if found), None)
    return {name: size for name in ("input_ids", "decoder_input_ids")} if isinstance(size, int) and size > 0 else {}


def known_bounds(folder: ModelFolder) -> tuple[dict[str, int], dict[str, int]]:
    """Sizes and limits for `generate_inputs` where a model folder's are narrower than the usual ones.

    Both are empty where the reference is no Transformers model: what is known of others is in the signature.

    Raises:
        ModelError: the configuration cannot be read.
    """
    reference = folder.reference.entry
    file = next((file for file in reference.files if file.path.rpartition("/")[2] == "config.json"), None)
    if reference.format != "hf" or file is None:
        return {}, {}
    path = folder.file(file)
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    if not isinstance(config, dict):
        return {}, {}
    limits = {name: size for name, size in token_limits(config).items() if size < DEFAULT_LIMIT}
    return sizes_within(config), limits
