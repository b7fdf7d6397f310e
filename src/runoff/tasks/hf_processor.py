"""The processor files of a Hugging Face folder: text to token ids and back, images to tensors, as Transformers does.

Loaded by name only, from the tasks that need it. Code in the folder never runs and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from transformers.utils import logging

from runoff.errors import InputError
from runoff.models.arrays import Array

_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
"""Without one of them Transformers makes a tokenizer up, which knows no word, and says nothing."""
_PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")


class HfProcessor:
    """What stands beside the model in its folder; each part is read when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: dict[str, Any] = {}

    def tokenize(self, texts: Sequence[str]) -> dict[str, Array]:
        """Token ids by input name, int64, shape (texts, longest); a text longer than the model takes is cut.

        Raises:
            InputError: the folder has no tokenizer, or it cannot be read.
        """
        tokenizer = self._part("tokenizer", _VOCABULARIES, transformers.AutoTokenizer.from_pretrained)
        limit = tokenizer.model_max_length
        # A tokenizer without a limit of its own carries a huge number.
        longest = limit if limit < 1 << 20 else None
        found = tokenizer(
            list(texts),
            padding=tokenizer.pad_token is not None,
            truncation=longest is not None,
            max_length=longest,
            return_token_type_ids=True,
        )
        lengths = {len(ids) for ids in found["input_ids"]}
        if len(lengths) > 1:
            raise InputError(
                f"texts of {min(lengths)} to {max(lengths)} tokens cannot share a batch: the tokenizer has no padding",
                hint="ask one text at a time",
            )
        return {name: np.asarray(found[name], np.int64) for name in found}

    def pixels(self, images: Sequence[Array]) -> Array:
        """Images of uint8 (height, width, 3), red first, as fp32 (images, channels, height, width).

        Raises:
            InputError: the folder has no image processor, or it cannot be read.
        """
        processor = self._part("image processor", _PREPROCESSORS, transformers.AutoImageProcessor.from_pretrained)
        rows = [processor(image, return_tensors="np")["pixel_values"][0] for image in images]
        return np.stack(rows).astype(np.float32)

    def decode(self, ids: Array) -> list[str]:
        """The texts of rows of token ids, without the special ones.

        Raises:
            InputError: the folder has no tokenizer, or it cannot be read.
        """
        tokenizer = self._part("tokenizer", _VOCABULARIES, transformers.AutoTokenizer.from_pretrained)
        texts: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _part(self, name: str, files: Sequence[str], load: Callable[..., Any]) -> Any:
        if name not in self._parts:
            if not any((self._folder / file).is_file() for file in files):
                raise _missing(name, f"there is none of {', '.join(files)}")
            verbosity = logging.get_verbosity()
            logging.set_verbosity_error()  # type: ignore[no-untyped-call]
            try:
                self._parts[name] = load(self._folder, local_files_only=True, trust_remote_code=False)
            except Exception as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise _missing(name, reason) from error
            finally:
                logging.set_verbosity(verbosity)
        return self._parts[name]


def _missing(name: str, reason: str) -> InputError:
    return InputError(
        f"the model's folder has no {name} that transformers {transformers.__version__} can read: {reason}",
        hint=f"save the {name} beside the model with save_pretrained, or pass arrays by name",
    )
