"""Text written token by token, the likeliest at each step, by any function that answers logits.

Knows no runtime, no image and no sound. Axes: `N` rows, `T` tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from runoff.models.arrays import Array, Arrays
from runoff.tasks.hf_folder import ProcessorOptions


class GenerationOptions(ProcessorOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How text is generated: the likeliest token at each step.

    Attributes:
        start_token: the id that every text begins with.
        end_tokens: ids that end a text; empty where only the length does.
        pad_token: the id that stands behind the end of a text while others of its batch go on.
        max_new_tokens: the longest text.
        suppressed: ids that are never written.
        suppressed_first: ids that are not written first.
    """

    start_token: int
    end_tokens: tuple[int, ...] = ()
    pad_token: int = 0
    max_new_tokens: int = 64
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()


def write_greedily(step: Callable[[Array], Arrays], ids: Array, options: GenerationOptions) -> Array:
    """Token ids by greedy search, int64, shape (N, T), those that the texts begin with included.

    Args:
        step: the model's outputs for decoder ids (N, T); `logits` has shape (N, T, vocabulary).
        ids: what the texts begin with, shape (N, at least 1).
        options: when a text ends, and what is not written.
    """
    is_done = np.zeros(len(ids), bool)
    for index in range(options.max_new_tokens):
        logits = np.array(step(ids)["logits"][:, -1], np.float32)
        logits[:, list(options.suppressed)] = -np.inf
        if index == 0:
            logits[:, list(options.suppressed_first)] = -np.inf
        token = np.where(is_done, options.pad_token, logits.argmax(axis=-1))
        ids = np.concatenate([ids, token[:, None]], axis=1)
        is_done |= np.isin(token, options.end_tokens)
        if is_done.all():
            break
    return ids
