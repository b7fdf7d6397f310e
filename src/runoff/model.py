"""An opened model: what `AutoModel.from_pretrained` answers with.

Knows a session, its task and the decision that chose it; how it was found and chosen is `auto.py`'s.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from runoff.backends.protocol import Session
from runoff.models.arrays import Array, Arrays
from runoff.models.folder import ModelFolder
from runoff.models.manifest import PackageEntry
from runoff.race.candidates import Candidate
from runoff.race.decide import Decision
from runoff.race.explain import explain
from runoff.race.fidelity import Contract
from runoff.race.selfcheck import Replay, replay_session
from runoff.tasks.base import Task, answer, task_for
from runoff.tasks.predictions import Prediction
from runoff.types import DType, Signature


class NotANumberWarning(UserWarning):
    """An input holds NaN: it is computed as it is, and the outputs may be NaN too."""


class Explanation(msgspec.Struct, frozen=True):
    """Why this package runs: `text` for people, `data` as plain JSON values. Printing it prints the text."""

    text: str
    data: dict[str, Any]

    def __str__(self) -> str:
        return self.text


class Model:
    """An opened package with its task; a context manager. Made by `AutoModel.from_pretrained`."""

    def __init__(self, folder: ModelFolder, candidate: Candidate, session: Session, decision: Decision) -> None:
        self._folder = folder
        self._session = session
        self._decision = decision
        self._candidate = candidate
        self._task: Task | None = None
        self._may_be_nan = [
            (spec.name, _NAN_TESTS[spec.dtype]) for spec in session.signature.inputs if spec.dtype in _NAN_TESTS
        ]
        self._run = session.run

    @property
    def signature(self) -> Signature:
        """The named inputs and outputs with dtype and shape."""
        return self._session.signature

    @property
    def package(self) -> PackageEntry:
        """The package that answers."""
        return self._folder.package(self._candidate.package_id).entry

    @property
    def candidate(self) -> Candidate:
        """The package together with the session options that it was opened with."""
        return self._candidate

    @property
    def decision(self) -> Decision:
        """Why this package runs, as data; its `serving` says what to serve it with where throughput was raced."""
        return self._decision

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the session says really runs: precision, threads, device, runtime version."""
        return self._session.facts

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Compute outputs from arrays by name; dtype and shape as in `signature`, the batch along axis 0.

        NaN is computed as it is, with a `NotANumberWarning`.

        Raises:
            InputError: names, dtypes, ranks or dimensions do not fit the signature.
            RuntimeRunError: the runtime failed.
            SessionClosed: the model was closed.
        """
        outputs = self._run(inputs)
        for name, has_nan in self._may_be_nan:
            if has_nan(inputs[name]):
                _report_nan(name, inputs[name])
        return outputs

    def __call__(self, value: Any) -> Prediction | list[Prediction]:
        """Predict from the task's own input, such as the path of an image; a list gives a list of predictions.

        Raises:
            InputError: the task cannot read the input.
        """
        return answer(self.task, value, self.run)

    @property
    def task(self) -> Task:
        """Pre-processing, post-processing and the prediction's type; made on first use."""
        if self._task is None:
            self._task = task_for(self._folder.manifest, self._folder)
        return self._task

    def verify(self, contract: Contract | None = None) -> Replay:
        """Let the opened package answer the model's golden pair on this machine.

        Args:
            contract: how far the answers may be from the golden ones; None holds them to the level of the precision.

        Raises:
            SelfCheckFailed: they are outside the contract; the message and `figures` say which output and by how much.
            ModelError: the model has no golden pair.
            RuntimeRunError: the runtime failed.
        """
        found = replay_session(self._folder, self._folder.package(self.package.id), self._session, contract)
        self._decision = msgspec.structs.replace(self._decision, notes=(*self._decision.notes, f"self-check: {found}"))
        return found

    def explain(self) -> Explanation:
        """Why this package runs: the figures of each candidate and the reason of each rejection."""
        text = explain(self._decision)
        return Explanation(text, msgspec.to_builtins(self._decision))

    def close(self) -> None:
        """Free the runtime's memory. Twice is fine."""
        self._session.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Model {self._folder.manifest.name!r} running {self._candidate.id}>"


def _has_nan(array: Array) -> bool:
    """One fast pass without a copy: the maximum of anything and NaN is NaN, the only value that is not itself."""
    top = np.maximum.reduce(array, axis=None, initial=-np.inf)
    return bool(top != top)


def _has_nan_above(infinity: int) -> Callable[[Array], bool]:
    """A test for 16-bit floats, whose bits are many times faster to compare than their values."""
    return lambda array: bool(np.max(array.view(np.uint16) & 0x7FFF, initial=0) > infinity)


_NAN_TESTS: dict[DType, Callable[[Array], bool]] = {
    DType.FP64: _has_nan,
    DType.FP32: _has_nan,
    DType.FP16: _has_nan_above(0x7C00),
    DType.BF16: _has_nan_above(0x7F80),
}


def _report_nan(name: str, array: Array) -> None:
    count = int(np.isnan(array).sum())
    if count:
        message = f"input {name!r} holds {count} NaN value{'s' if count > 1 else ''}"
        warnings.warn(message, NotANumberWarning, stacklevel=3)
