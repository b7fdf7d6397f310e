"""The seam between a person's input and a model's arrays: `Task`, and the table of tasks by id.

Knows no runtime: a task is built from what the manifest says and turns inputs into arrays and arrays into
typed predictions. `answer` is the one order in which a task, a model and an input meet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from runoff.errors import unknown_name
from runoff.models.arrays import Array, Arrays
from runoff.models.evaluation import read_labels
from runoff.models.folder import ModelFolder
from runoff.models.manifest import Manifest
from runoff.tasks.classification import ImageClassification
from runoff.tasks.predictions import Prediction
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

    def predict(self, outputs: Arrays) -> Sequence[Prediction]:
        """The predictions in the model's outputs, one a row."""
        ...

    def metric(self, outputs: Arrays, labels: Array) -> float:
        """The task's figure on labelled rows; larger is better.

        Raises:
            InputError: the task has no metric, or labels and outputs do not fit.
        """
        ...


Builder: TypeAlias = Callable[[Signature, dict[str, Any], Sequence[str]], Task]

TASKS: Mapping[str, Builder] = {Tensors.id: Tensors, ImageClassification.id: ImageClassification}
"""Every task by id."""


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
    labels = read_labels(source) if isinstance(source, ModelFolder) else source
    return builder(manifest.signature, manifest.preprocess, labels)


def answer(task: Task, value: object, run: Callable[[Arrays], Arrays]) -> Prediction | list[Prediction]:
    """Prepare a value, run the model on it, and answer a prediction, or a list of them for several inputs.

    Args:
        task: the model's task.
        value: what a person has: see the task's `prepare`.
        run: the model, normally `session.run`.
    """
    predictions = list(task.predict(run(task.prepare(value))))
    return predictions if task.is_many(value) else predictions[0]
