"""The processor files of a Hugging Face folder: text to token ids and back, images and sound to tensors.

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

    def tokenize(
        self, texts: Sequence[str], *, length: int | None = None, longest: int | None = None, cut: bool = True
    ) -> dict[str, Array]:
        """Token ids by input name, int64, shape (texts, longest).

        Args:
            texts: what is read.
            length: all rows have this many tokens.
            longest: the most tokens that the model takes, where the tokenizer's own limit is another.
            cut: whether a text that is longer than the model takes is cut, else it is refused.

        Raises:
            InputError: the folder has no tokenizer, or it cannot be read; a text is too long.
        """
        found = self._encode(texts, None, length=length, longest=longest, cut=cut)
        return {name: np.asarray(found[name], np.int64) for name in found}

    def align(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, cut: bool = True
    ) -> tuple[dict[str, Array], Array, Array]:
        """Token ids as `tokenize` gives them, and where the tokens lie in the last text of each row.

        Returns: the ids by name; the characters where each token begins and ends, int64 (texts, longest, 2); whether a
            token is of the last text of its row, bool (texts, longest).

        Raises:
            InputError: as `tokenize`; or the tokenizer does not tell where its tokens lie.
        """
        found = self._encode(texts, pairs, cut=cut)
        if not found.is_fast:
            raise InputError(
                "the tokenizer of this model does not tell where its tokens lie in the text",
                hint="save its fast form, tokenizer.json, beside the model",
            )
        rows = range(len(found["input_ids"]))
        last = 0 if pairs is None else 1
        offsets = np.asarray([found.encodings[row].offsets for row in rows], np.int64)
        own = np.asarray([[of == last for of in found.sequence_ids(row)] for row in rows], bool)
        return {name: np.asarray(found[name], np.int64) for name in found}, offsets, own

    def _encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        *,
        length: int | None = None,
        longest: int | None = None,
        cut: bool,
    ) -> Any:
        tokenizer = self._tokenizer()
        limit = tokenizer.model_max_length
        # A tokenizer without a limit of its own carries a huge number.
        longest = length or longest or (limit if limit < 1 << 20 else None)
        padded = tokenizer.pad_token is not None
        if length is not None and not padded:
            raise _missing("tokenizer with padding", "its texts must all have one length")
        found = tokenizer(
            list(texts),
            None if pairs is None else list(pairs),
            padding="max_length" if length is not None else padded,
            truncation=cut and longest is not None,
            max_length=longest if cut else None,
            return_token_type_ids=True,
            verbose=False,
        )
        lengths = {len(ids) for ids in found["input_ids"]}
        if longest is not None and max(lengths) > longest:
            raise InputError(
                f"the text has {max(lengths)} tokens, this model takes {longest}", hint="ask about a shorter part of it"
            )
        if len(lengths) > 1:
            raise InputError(
                f"texts of {min(lengths)} to {max(lengths)} tokens cannot share a batch: the tokenizer has no padding",
                hint="ask one text at a time",
            )
        if "token_type_ids" not in tokenizer.model_input_names:
            # The model was trained without them, where it takes zeros.
            found["token_type_ids"] = [[0] * len(ids) for ids in found["input_ids"]]
        return found

    def pixels(self, images: Sequence[Array], size: tuple[int, int] | None = None) -> Array:
        """Images of uint8 (height, width, 3), red first, as fp32 (images, channels, height, width).

        Args:
            images: of any sizes.
            size: the height and width that the model is fixed to; the image processor is told where its own differ.

        Raises:
            InputError: the folder has no image processor, or it cannot be read; the images get different sizes.
        """
        processor = self._part("image processor", _PREPROCESSORS, transformers.AutoImageProcessor.from_pretrained)
        rows = [_pixels(processor, image, size) for image in images]
        if len({row.shape for row in rows}) > 1:
            shapes = " and ".join(sorted({f"{row.shape[-2]} x {row.shape[-1]}" for row in rows}))
            raise InputError(f"images of {shapes} pixels cannot share a batch", hint="ask one image at a time")
        return np.stack(rows).astype(np.float32)

    def sound(self, waves: Sequence[Array]) -> Array:
        """Waveforms (samples,), fp32 at `sampling_rate`, as the model takes them: waveforms or spectrograms, one a row.

        Raises:
            InputError: the folder has no feature extractor, or it cannot be read; a waveform is too long.
        """
        extractor = self._extractor()
        longest = getattr(extractor, "n_samples", None)
        for wave in waves:
            if longest is not None and len(wave) > longest:
                rate = extractor.sampling_rate
                raise InputError(
                    f"the sound lasts {len(wave) / rate:.1f} s, this model hears {longest / rate:.1f} s",
                    hint="cut the sound and ask for each part",
                )
        rows = [extractor(wave, sampling_rate=extractor.sampling_rate, return_tensors="np") for wave in waves]
        arrays = [np.asarray(row[extractor.model_input_names[0]][0], np.float32) for row in rows]
        if len({array.shape for array in arrays}) > 1:
            raise InputError("sounds of different lengths cannot share a batch", hint="ask one sound at a time")
        return np.stack(arrays)

    @property
    def sampling_rate(self) -> int:
        """Samples per second that the model was trained with."""
        return int(self._extractor().sampling_rate)

    def decode(self, ids: Array) -> list[str]:
        """The texts of rows of token ids, without the special ones.

        Raises:
            InputError: the folder has no tokenizer, or it cannot be read.
        """
        texts: list[str] = self._tokenizer().batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def decode_frames(self, ids: Array) -> list[str]:
        """The texts of rows with one id for each frame of sound, repetitions and blanks left out (CTC).

        Raises:
            InputError: the folder has no tokenizer for CTC, or it cannot be read.
        """
        tokenizer = self._tokenizer()
        if not isinstance(tokenizer, transformers.Wav2Vec2CTCTokenizer):
            raise _missing("tokenizer for CTC", f"there is a {type(tokenizer).__name__}")
        return [str(tokenizer.decode(row.tolist())) for row in ids]

    def mask_token(self) -> tuple[str, int]:
        """The token that stands for a gap, and its id.

        Raises:
            InputError: the folder has no tokenizer, or one without such a token.
        """
        tokenizer = self._tokenizer()
        if tokenizer.mask_token is None:
            raise _missing("tokenizer with a mask token", "this one has none")
        return str(tokenizer.mask_token), int(tokenizer.mask_token_id)

    def name(self, token_id: int) -> str:
        """The text of one token."""
        return str(self._tokenizer().decode([token_id]))

    def _tokenizer(self) -> Any:
        return self._part("tokenizer", _VOCABULARIES, transformers.AutoTokenizer.from_pretrained)

    def _extractor(self) -> Any:
        return self._part("feature extractor", _PREPROCESSORS, transformers.AutoFeatureExtractor.from_pretrained)

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


def _pixels(processor: Any, image: Array, size: tuple[int, int] | None) -> Array:
    try:
        found: Array = processor(image, return_tensors="np")["pixel_values"][0]
        if size is not None and found.shape[-2:] != size:
            wanted = {"height": size[0], "width": size[1]}
            found = processor(image, return_tensors="np", size=wanted)["pixel_values"][0]
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"the image processor of this model needs a library that is missing: {reason}",
            hint="pip install it beside runoff[hf] (OWLv2 resizes with scipy), or pass arrays by name",
        ) from error
    return found


def _missing(name: str, reason: str) -> InputError:
    return InputError(
        f"the model's folder has no {name} that transformers {transformers.__version__} can read: {reason}",
        hint=f"save the {name} beside the model with save_pretrained, or pass arrays by name",
    )
