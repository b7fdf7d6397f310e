"""Sound through the feature extractor of a Hugging Face folder: what was said, as text.

Knows no runtime. Waveforms have the sampling rate that the model was trained with; nothing is resampled.
Axes: `N` sounds, `T` tokens or frames.
"""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runoff.errors import InputError
from runoff.models.arrays import Array, Arrays
from runoff.tasks.generation import GenerationOptions, write_greedily
from runoff.tasks.hf_folder import MASK, ProcessorOptions, ProcessorTask, listed
from runoff.tasks.image import parse_preprocess
from runoff.tasks.predictions import TextPrediction
from runoff.tasks.run import Run
from runoff.types import Signature

MAX_FILE_BYTES = 512 * 2**20


class SpeechOptions(GenerationOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a transcript is written: `GenerationOptions`, and what stands before it.

    Attributes:
        languages: tokens of languages, of which the likeliest follows the start token; empty for none.
        prompt: tokens that follow, such as those for "transcribe" and "no timestamps".
    """

    languages: tuple[int, ...] = ()
    prompt: tuple[int, ...] = ()


class SpeechRecognition(ProcessorTask):
    """What was said in a sound: as Whisper writes it, token by token, or by the likeliest token of each frame (CTC).

    Takes the path of a WAV file, or a waveform: an array of float (samples,), -1 to 1, at the model's sampling rate.

    Args:
        signature: the output `logits`, (N, T, vocabulary), and either the inputs `input_features` and
            `decoder_input_ids`, or `input_values`, (N, samples).
        preprocess: see `SpeechOptions`; for CTC `ProcessorOptions`.
        labels: none.

    Raises:
        ManifestInvalid: preprocess and signature do not fit the task.
    """

    id = "automatic-speech-recognition"

    def __init__(self, signature: Signature, preprocess: dict[str, Any], labels: Sequence[str] = ()) -> None:
        del labels
        self._options = parse_preprocess(preprocess, SpeechOptions) if "start_token" in preprocess else None
        needed = ["input_values"] if self._options is None else ["input_features", "decoder_input_ids"]
        options = self._options or parse_preprocess(preprocess, ProcessorOptions)
        super().__init__(signature, options.processor, [*needed, "logits"])

    def _prepared(self, value: object) -> dict[str, Array]:
        processor = self._processor.open()
        rate = processor.sampling_rate
        found = processor.sound([read_sound(one, rate) for one in listed(value, object, "a sound")])
        rows = np.ones((len(found), 1), np.int64)
        if self._options is None:
            return {"input_values": found, MASK: rows}
        return {"input_features": found, "decoder_input_ids": rows * self._options.start_token, MASK: rows}

    def compute(self, run: Run, inputs: Arrays) -> Arrays:
        """Token ids, `sequences`, int64 (N, T): of the transcript with its prompt, or the likeliest of each frame."""
        options = self._options
        if options is None or MASK not in inputs:
            found = super().compute(run, inputs)
            return found if MASK not in found else {"sequences": found["logits"].argmax(axis=-1), MASK: found[MASK]}

        def step(ids: Array) -> Arrays:
            return run({"input_features": inputs["input_features"], "decoder_input_ids": ids})

        ids = inputs["decoder_input_ids"]
        if options.languages:
            known = np.array(options.languages)
            chosen = known[step(ids)["logits"][:, -1, known].argmax(axis=-1)]
            ids = np.concatenate([ids, chosen[:, None]], axis=1)
        ids = np.concatenate([ids, np.tile(np.array(options.prompt, np.int64), (len(ids), 1))], axis=1)
        return {"sequences": write_greedily(step, ids, options), MASK: inputs[MASK]}

    def _predictions(self, outputs: Arrays) -> list[TextPrediction]:
        ids = outputs["sequences"]
        processor = self._processor.open()
        texts = processor.decode_frames(ids) if self._options is None else processor.decode(ids)
        return [TextPrediction(text, row) for text, row in zip(texts, ids, strict=True)]


def read_sound(value: object, sampling_rate: int) -> Array:
    """A sound as a waveform, fp32 (samples,), -1 to 1; channels are averaged.

    Args:
        value: the path of a WAV file of whole numbers (PCM), or an array of float (samples,).
        sampling_rate: samples per second that the file must have.

    Raises:
        InputError: neither, damaged, empty, too large, or of another sampling rate.
    """
    if isinstance(value, np.ndarray):
        if value.ndim != 1 or value.dtype.kind != "f":
            raise InputError(f"a waveform is an array of float (samples,), got {value.dtype}{list(value.shape)}")
        found: Array = value.astype(np.float32)
    elif isinstance(value, (str, Path)):
        found = _read_wav(Path(value), sampling_rate)
    else:
        raise InputError(f"a sound is the path of a WAV file or an array, not a {type(value).__name__}")
    if len(found) == 0 or not np.isfinite(found).all():
        raise InputError("the sound is empty" if len(found) == 0 else "the sound has samples that are no numbers")
    return found


def _read_wav(path: Path, sampling_rate: int) -> Array:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes, sounds may have {MAX_FILE_BYTES}")
        with wave.open(str(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (OSError, EOFError, ValueError, wave.Error) as error:
        raise InputError(
            f"{path} cannot be read as a WAV file of whole numbers: {error}", hint="convert it: ffmpeg -i IN OUT.wav"
        ) from error
    if rate != sampling_rate:
        raise InputError(
            f"{path} has {rate} samples per second, this model takes {sampling_rate}",
            hint=f"convert it: ffmpeg -i {path.name} -ar {sampling_rate} OUT.wav",
        )
    if width == 1:
        samples: NDArray[Any] = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    elif width == 3:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data[: len(wide) * 3], np.uint8).reshape(-1, 3)
        samples = wide.view("<i4")[:, 0].astype(np.float32) / 2**31
    else:
        whole = len(data) // width * width
        samples = np.frombuffer(data[:whole], f"<i{width}").astype(np.float32) / 2 ** (8 * width - 1)
    frames = len(samples) // channels
    mono: Array = samples[: frames * channels].reshape(frames, channels).mean(axis=1)
    return mono
