"""MediaPipe Tasks: `.task` files, and `.tflite` files with metadata: what comes before and after the network included.

A task answers lists of objects for one picture, text or sound; here a batch runs row by row, and what a row found
becomes arrays, filled up to the longest row of the batch. Knows what a file is for from mediapipe_task.py.
"""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mediapipe.tasks.python import BaseOptions, audio, text, vision
from mediapipe.tasks.python.components.containers.audio_data import AudioData
from mediapipe.tasks.python.vision.core.image import Image, ImageFormat

from runoff.backends import table
from runoff.backends.mediapipe_task import TaskFile, read_task_file
from runoff.backends.protocol import CheckedSession, Session, SessionOptions, session_closed
from runoff.errors import FormatMismatch, InputError, RuntimeLoadError, RuntimeRunError
from runoff.models.arrays import Array, Arrays, numpy_dtype
from runoff.models.folder import Package
from runoff.types import Signature, TensorSpec

_NO_THRESHOLD = -3.0e38
"""Below any score: a class that was dropped would have no score, where the array has a place for it."""


class Kind(NamedTuple):
    """How one kind of task is opened and asked.

    Attributes:
        task, options: MediaPipe's classes.
        ask: the method of the task.
        answer: from a result, the task's file and the row to the outputs without the batch.
        fixed: options that are always set.
        threshold, limit: what MediaPipe calls the options `score_threshold` and `max_results`; None where it has none.
    """

    task: Any
    options: Any
    ask: str
    answer: Callable[[Any, TaskFile, Any], list[Array]]
    fixed: Mapping[str, Any]
    threshold: str | None = None
    limit: str | None = None


class MediaPipeBackend:
    """Opens packages in the format `mediapipe`."""

    def open(self, package: Package, options: SessionOptions) -> Session:
        """Open a package; see `Backend.open`."""
        table.check_session("mediapipe", options)
        own = package.entry.precision
        if options.precision not in (None, "default", own):
            raise RuntimeLoadError(
                f"MediaPipe computes in the precision of the file, which is {own}, not {options.precision}",
                hint="leave the precision out",
            )
        if options.num_threads not in (None, 1):
            raise RuntimeLoadError(
                f"MediaPipe computes on one thread here, {options.num_threads} were asked for",
                hint="ask for one thread, or for none in particular",
            )
        try:
            file = read_task_file(package.main_file)
        except FormatMismatch as error:
            raise RuntimeLoadError(f"cannot open package {package.id!r}: {error.message}", hint=error.hint) from error
        if _shapes(file.signature) != _shapes(package.signature):
            raise RuntimeLoadError(
                f"the file of package {package.id!r} is for {_words(file.signature)}, "
                f"its signature says {_words(package.signature)}",
                hint="adopt the file again",
            )
        kind = KINDS[file.kind]
        wanted = _task_options(file.kind, kind, options.backend)
        try:
            base = BaseOptions(model_asset_buffer=file.content)
            task = kind.task.create_from_options(kind.options(base_options=base, **kind.fixed, **wanted))
        except Exception as error:
            raise RuntimeLoadError(
                f"MediaPipe cannot open package {package.id!r} as {file.kind}: {_finding(error)}",
                hint="check the file with `runoff verify`, or fetch it again",
            ) from error
        return MediaPipeSession(task, kind, file, package)

    def read_signature(self, format_id: str, path: Path) -> Signature:
        """The arrays that the task of a file takes and answers."""
        return read_task_file(path).signature


class MediaPipeSession(CheckedSession):
    """A task in its mode for single pictures; it takes one at a time."""

    def __init__(self, task: Any, kind: Kind, file: TaskFile, package: Package) -> None:
        facts = {
            "runtime": f"mediapipe {importlib.metadata.version('mediapipe')}",
            "device": "cpu",
            "precision": package.entry.precision.value,
            "threads": 1,
            "task": file.kind,
        }
        super().__init__(package.signature, facts)
        self.concurrency = "exclusive"
        self._task: Any = task
        self._kind = kind
        self._file = file
        self._lock = threading.Lock()

    def _compute(self, inputs: Arrays) -> dict[str, Array]:
        rows = next(iter(inputs.values()))
        answers = []
        with self._lock:
            if self._task is None:
                raise session_closed()
            ask = getattr(self._task, self._kind.ask)
            for row in rows:
                given = _given(self._file, row)
                try:
                    answers.append(self._kind.answer(ask(given), self._file, row))
                except Exception as error:
                    raise RuntimeRunError(
                        f"MediaPipe failed as {self._file.kind}: {_finding(error)}",
                        hint="the input may be too small or too large for this task",
                    ) from error
        return {
            spec.name: _stack(spec, [answer[place] for answer in answers])
            for place, spec in enumerate(self.signature.outputs)
        }

    def _release(self) -> None:
        with self._lock:
            task, self._task = self._task, None
            task.close()


def _given(file: TaskFile, row: Any) -> Any:
    """One row as MediaPipe takes it."""
    if file.kind.startswith("text"):
        if not isinstance(row, str):
            raise InputError(f"input 'text' holds a {type(row).__name__}, expected str")
        return str(row)
    if file.kind == "audio-classifier":
        return AudioData.create_from_array(np.ascontiguousarray(row), file.sample_rate)
    return Image(ImageFormat.SRGB, np.require(row, np.uint8, ["C", "A"]))


def _stack(spec: TensorSpec, parts: Sequence[Array]) -> Array:
    """The rows' answers as one array; a shorter row is filled with zeros, and its classes with -1."""
    dtype = numpy_dtype(spec.dtype)
    longest = tuple(max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True))
    stacked = np.full((len(parts), *longest), -1 if spec.name == "classes" and dtype == np.int32 else 0, dtype)
    for place, part in enumerate(parts):
        corner: tuple[int | slice, ...] = (place, *(slice(size) for size in part.shape))
        stacked[corner] = part
    return stacked


def _heads(results: Sequence[Any], file: TaskFile) -> list[Array]:
    """The scores of each head by class id, float32 [classes]."""
    answers: list[Array] = []
    for spec, head in zip(file.signature.outputs, results, strict=True):
        scores = np.zeros(int(spec.shape[-1]), np.float32)
        for category in head.categories:
            scores[category.index] = category.score
        answers.append(scores)
    return answers


def _classified(result: Any, file: TaskFile, row: Any) -> list[Array]:
    return _heads(result.classifications, file)


def _heard(result: Any, file: TaskFile, row: Any) -> list[Array]:
    """Scores of each window of the sound, float32 [windows, classes]."""
    windows = [_heads(window.classifications, file) for window in result]
    return [np.stack([window[head] for window in windows]) for head in range(len(file.signature.outputs))]


def _embedded(result: Any, file: TaskFile, row: Any) -> list[Array]:
    return [np.asarray(head.embedding, np.float32) for head in result.embeddings]


def _segmented(result: Any, file: TaskFile, row: Any) -> list[Array]:
    """float32 [height, width, classes] and uint8 [height, width]."""
    size = row.shape[:2]
    masks = np.stack([mask.numpy_view().reshape(size) for mask in result.confidence_masks], axis=-1)
    return [masks, result.category_mask.numpy_view().reshape(size).copy()]


def _detected(result: Any, file: TaskFile, row: Any) -> list[Array]:
    """Boxes as left, top, right, bottom in pixels; best scores and their classes; keypoints as x, y in pixels."""
    found = result.detections
    best = [one.categories[0] for one in found]
    boxes = [
        (box.origin_x, box.origin_y, box.origin_x + box.width, box.origin_y + box.height)
        for box in (one.bounding_box for one in found)
    ]
    answer: list[Array] = [
        np.array(boxes, np.float32).reshape(len(found), 4),
        np.array([category.score for category in best], np.float32),
        np.array([_class_id(category, file.labels) for category in best], np.int32),
    ]
    if file.kind == "face-detector":
        height, width = row.shape[:2]
        points = [[(point.x * width, point.y * height) for point in one.keypoints] for one in found]
        answer.append(np.array(points, np.float32).reshape(len(found), 6, 2))
    return answer


def _class_id(category: Any, labels: tuple[str, ...]) -> int:
    """A detector with labels answers the name and no index."""
    if category.index is not None and category.index >= 0:
        return int(category.index)
    return labels.index(category.category_name) if category.category_name in labels else -1


def _landmarks(found: Sequence[Any], file: TaskFile, row: Any) -> Array:
    """x and y in pixels, and depth in the scale of x, float32 [found, points, 3]."""
    height, width = row.shape[:2]
    points = [[(point.x * width, point.y * height, point.z * width) for point in one] for one in found]
    number = file.signature.outputs[0].shape[2]
    return np.array(points, np.float32).reshape(len(found), int(number), 3)


def _faces(result: Any, file: TaskFile, row: Any) -> list[Array]:
    return [_landmarks(result.face_landmarks, file, row)]


def _hands(result: Any, file: TaskFile, row: Any) -> list[Array]:
    sides = [categories[0] for categories in result.handedness]
    return [
        _landmarks(result.hand_landmarks, file, row),
        np.array([side.score for side in sides], np.float32),
        np.array([_class_id(side, file.labels) for side in sides], np.int32),
    ]


_ALL_SCORES = {"max_results": -1, "score_threshold": _NO_THRESHOLD}
_MASKS = {"output_confidence_masks": True, "output_category_mask": True}
KINDS: Mapping[str, Kind] = {
    "image-classifier": Kind(
        vision.ImageClassifier, vision.ImageClassifierOptions, "classify", _classified, _ALL_SCORES
    ),
    "image-embedder": Kind(vision.ImageEmbedder, vision.ImageEmbedderOptions, "embed", _embedded, {}),
    "image-segmenter": Kind(vision.ImageSegmenter, vision.ImageSegmenterOptions, "segment", _segmented, _MASKS),
    "object-detector": Kind(
        vision.ObjectDetector, vision.ObjectDetectorOptions, "detect", _detected, {}, "score_threshold", "max_results"
    ),
    "face-detector": Kind(
        vision.FaceDetector, vision.FaceDetectorOptions, "detect", _detected, {}, "min_detection_confidence"
    ),
    "face-landmarker": Kind(
        vision.FaceLandmarker,
        vision.FaceLandmarkerOptions,
        "detect",
        _faces,
        {},
        "min_face_detection_confidence",
        "num_faces",
    ),
    "hand-landmarker": Kind(
        vision.HandLandmarker,
        vision.HandLandmarkerOptions,
        "detect",
        _hands,
        {},
        "min_hand_detection_confidence",
        "num_hands",
    ),
    "text-classifier": Kind(text.TextClassifier, text.TextClassifierOptions, "classify", _classified, _ALL_SCORES),
    "text-embedder": Kind(text.TextEmbedder, text.TextEmbedderOptions, "embed", _embedded, {}),
    "audio-classifier": Kind(audio.AudioClassifier, audio.AudioClassifierOptions, "classify", _heard, _ALL_SCORES),
}
"""Every kind of task that is opened, by the names of mediapipe_task.py."""


def _task_options(name: str, kind: Kind, options: Mapping[str, Any]) -> dict[str, Any]:
    """The wishes in MediaPipe's words.

    Raises:
        RuntimeLoadError: this kind of task has no such option.
    """
    known = {"score_threshold": kind.threshold, "max_results": kind.limit}
    wanted = {}
    for option, value in options.items():
        own = known[option]
        if own is None:
            raise RuntimeLoadError(f"the option {option!r} means nothing to a task of the kind {name}")
        wanted[own] = value
    return wanted


def _shapes(signature: Signature) -> list[tuple[Any, ...]]:
    return [(spec.name, spec.dtype, spec.shape) for spec in (*signature.inputs, *signature.outputs)]


def _words(signature: Signature) -> str:
    return f"{', '.join(map(str, signature.inputs))} -> {', '.join(map(str, signature.outputs))}"


def _finding(error: Exception) -> str:
    """What MediaPipe says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
