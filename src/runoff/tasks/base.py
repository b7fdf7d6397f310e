"""The seam between a person's input and a model's arrays: `Task`, and the table of tasks by id.

Knows no runtime: a task is built from what the manifest says and turns inputs into arrays and arrays into
typed predictions. `answer` is the one order in which a task, a model and an input meet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from runoff.errors import ManifestInvalid, unknown_name
from runoff.models.arrays import Array, Arrays
from runoff.models.evaluation import read_labels
from runoff.models.folder import ModelFolder
from runoff.models.manifest import Manifest, check_path
from runoff.tasks.classification import ImageClassification
from runoff.tasks.hf import ImageToText, TextClassification
from runoff.tasks.hf_speech import SpeechRecognition
from runoff.tasks.hf_text import FeatureExtraction, FillMask, QuestionAnswering, TokenClassification
from runoff.tasks.hf_vision import HfImageClassification, ObjectDetection, ZeroShotObjectDetection
from runoff.tasks.predictions import Prediction
from runoff.tasks.run import Run
from runoff.tasks.tensors import Tensors
from runoff.types import Signature


class Task(Protocol):
    """Pre-processing, post-processing and the metric of one model."""

    @property
    def id(self) -> str:
        """The manifest's word for the task, such as `image-classification`."""
        ...

    @property
    def metric_name(self) -> str | None:
        """What `metric` measures, or None where the task has no metric."""
        ...

    def is_many(self, value: object) -> bool:
        """Whether a value is several inputs, which are answered by a list."""
        ...

    def prepare(self, value: object) -> dict[str, Array]:
        """The model's inputs for a value: one row, or one for each of several.

        Raises:
            InputError: the value is not what the task takes.
        """
        ...

    def compute(self, run: Run, inputs: Arrays) -> Arrays:
        """What `predict` reads, for prepared inputs: the outputs of one run, or of as many as the task needs."""
        ...

    def predict(self, outputs: Arrays) -> Sequence[Prediction]:
        """The predictions in what `compute` answered, one a row."""
        ...

    def metric(self, outputs: Arrays, labels: Array) -> float:
        """The task's figure on labelled rows; larger is better.

        Raises:
            InputError: the task has no metric, or labels and outputs do not fit.
        """
        ...


Builder: TypeAlias = Callable[[Signature, dict[str, Any], Sequence[str]], Task]

TASKS: Mapping[str, Builder] = {
    Tensors.id: Tensors,
    ImageClassification.id: ImageClassification,
    TextClassification.id: TextClassification,
    ImageToText.id: ImageToText,
    TokenClassification.id: TokenClassification,
    QuestionAnswering.id: QuestionAnswering,
    FillMask.id: FillMask,
    FeatureExtraction.id: FeatureExtraction,
    ObjectDetection.id: ObjectDetection,
    ZeroShotObjectDetection.id: ZeroShotObjectDetection,
    SpeechRecognition.id: SpeechRecognition,
}
"""Every task by id."""
_BY_PROCESSOR: Mapping[str, Builder] = {HfImageClassification.id: HfImageClassification}
"""Tasks that are built otherwise where the preprocess names the folder of processor files."""


def task_for(manifest: Manifest, source: ModelFolder | Sequence[str] = ()) -> Task:
    """The task of a model.

    Args:
        manifest: what names the task, its preprocess and the signature; no task means `tensors`.
        source: the class names by class id, or the folder whose file of labels holds them.

    Raises:
        UnknownName: no such task; the message lists the known ones.
        ManifestInvalid: preprocess, labels and signature do not fit together.
    """
    task_id = manifest.task or Tensors.id
    builder = TASKS.get(task_id)
    if builder is None:
        raise unknown_name("task", task_id, list(TASKS))
    if "processor" in manifest.preprocess:
        builder = _BY_PROCESSOR.get(task_id, builder)
    if not isinstance(source, ModelFolder):
        return builder(manifest.signature, manifest.preprocess, source)
    return builder(manifest.signature, _with_processor(manifest, source), read_labels(source))


def _with_processor(manifest: Manifest, folder: ModelFolder) -> dict[str, Any]:
    """The preprocess with the folder of processor files as it lies on disk, their digests verified.

    Raises:
        ManifestInvalid: the manifest has no file below that folder.
        DigestMismatch: one of them was changed.
    """
    place = manifest.preprocess.get("processor")
    if not isinstance(place, str):
        return manifest.preprocess
    inside = [file for file in manifest.files() if file.path.startswith(f"{place}/")]
    if not inside:
        raise ManifestInvalid(f"the manifest's preprocess names the processor {place!r}, and no file lies there")
    for file in inside:
        # Weights are the session's to verify, and long to read.
        if not file.path.endswith(".safetensors"):
            folder.file(file)
    check_path(place)
    return {**manifest.preprocess, "processor": str(folder.root / place)}


def answer(task: Task, value: object, run: Run) -> Prediction | list[Prediction]:
    """Prepare a value, run the model on it, and answer a prediction, or a list of them for several inputs.

    Args:
        task: the model's task.
        value: what a person has: see the task's `prepare`.
        run: the model, normally `session.run`.
    """
    predictions = list(task.predict(task.compute(run, task.prepare(value))))
    return predictions if task.is_many(value) else predictions[0]
