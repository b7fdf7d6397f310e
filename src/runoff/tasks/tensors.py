"""The task of a model without a task: arrays in, arrays out.

Knows the input names of the signature and nothing of their meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runoff.errors import InputError
from runoff.models.arrays import Array, Arrays
from runoff.tasks.predictions import ArraysPrediction
from runoff.tasks.run import Run
from runoff.types import Signature


class Tensors:
    """The task of a model without one: arrays in, arrays out.

    Takes a dict of arrays by input name, or for a model with one input the bare array.
    """

    id = "tensors"
    metric_name = None

    def __init__(
        self, signature: Signature, preprocess: dict[str, Any] | None = None, labels: Sequence[str] = ()
    ) -> None:
        del preprocess, labels
        self._names = tuple(spec.name for spec in signature.inputs)

    def is_many(self, value: object) -> bool:
        """Never: arrays bring their batch with them."""
        del value
        return False

    def prepare(self, value: object) -> dict[str, Array]:
        """The arrays by name, as they are; the session checks them against the signature.

        Raises:
            InputError: neither a dict of arrays nor, for a model with one input, an array.
        """
        if isinstance(value, Mapping):
            return dict(value)
        if isinstance(value, np.ndarray) and len(self._names) == 1:
            return {self._names[0]: value}
        raise InputError(
            f"a model without a task takes arrays by name ({', '.join(self._names)}), not a {type(value).__name__}",
            hint="pass a dict of numpy arrays, or name a task in the model's manifest",
        )

    def compute(self, run: Run, inputs: Arrays) -> Arrays:
        """One run."""
        return run(inputs)

    def predict(self, outputs: Arrays) -> list[ArraysPrediction]:
        """One prediction that holds every output with its batch."""
        return [ArraysPrediction(dict(outputs))]

    def metric(self, outputs: Arrays, labels: Array) -> float:
        """Refused: without a task there is nothing to measure.

        Raises:
            InputError: always.
        """
        raise InputError("a model without a task has no metric", hint="name a task in the model's manifest")
