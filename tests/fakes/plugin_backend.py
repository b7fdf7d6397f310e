"""A backend as a third party would ship it, which does what its package's JSON file says, faults included.

    {"factor": 1.0, "latency_ms": 2.0, "on_open": null, "on_first_run": null, "on_run": "segfault"}

Each output is the input at its place (the last input where there are fewer) times `factor`. Depends on nothing but
Runoff's public seam, so that `plugin_site.py` can install this one file.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from runoff.backends.protocol import CheckedSession, SessionOptions
from runoff.backends.row import BackendRow, Option
from runoff.backends.table import check_session
from runoff.errors import FormatMismatch, RuntimeLoadError
from runoff.models.arrays import Array, Arrays, numpy_dtype
from runoff.models.folder import Package
from runoff.types import Precision, Signature

Fault = Literal["segfault", "hang", "oom", "raise", "wrong"]

_BLOCK_BYTES = 32 << 20
_BLOCK_PAUSE_S = 0.02
_RUNNING: list[FakeSession] = []


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a package's file says.

    Attributes:
        factor: outputs are inputs times this.
        latency_ms: how long a run sleeps.
        on_open, on_first_run, on_run: the fault at that moment; `wrong` adds 1 to the outputs of that run.
        alone: a run fails while another session of the process runs.
        oom_bytes: where the fault `oom` gives up with a MemoryError, so that it cannot take the machine down.
        signature: what `read_signature` answers.
    """

    factor: float = 1.0
    latency_ms: float = 0.0
    on_open: Fault | None = None
    on_first_run: Fault | None = None
    on_run: Fault | None = None
    alone: bool = False
    oom_bytes: int = 2 << 30
    signature: Signature | None = None


class FakeBackend:
    """Opens packages in the format `fake`."""

    def open(self, package: Package, options: SessionOptions) -> FakeSession:
        """Open a package; see `Backend.open`."""
        check_session("fake", options)
        try:
            behaviour = msgspec.json.decode(package.main_file.read_bytes(), type=Behaviour)
        except msgspec.DecodeError as error:
            raise RuntimeLoadError(f"fake cannot open {package.main_file}: {error}") from error
        _commit(behaviour.on_open, behaviour)
        return FakeSession(package, behaviour, options)

    def read_signature(self, format_id: str, path: Path) -> Signature:
        """The signature that the file holds."""
        try:
            signature = msgspec.json.decode(path.read_bytes(), type=Behaviour).signature
        except msgspec.DecodeError as error:
            raise FormatMismatch(f"{path} is no fake model: {error}") from error
        if signature is None:
            raise FormatMismatch(f"{path} has no signature")
        return signature


class FakeSession(CheckedSession):
    """Multiplies, or fails."""

    def __init__(self, package: Package, behaviour: Behaviour, options: SessionOptions) -> None:
        facts = {"runtime": "fake 1.0", "precision": package.entry.precision.value, "device": str(options.device)}
        super().__init__(package.signature, {**facts, "threads": options.num_threads or 1})
        self._behaviour = behaviour
        self._factor = behaviour.factor * options.backend.get("gain", 1)
        self._num_runs = 0

    def _compute(self, inputs: Arrays) -> dict[str, Array]:
        behaviour = self._behaviour
        fault = behaviour.on_first_run if self._num_runs == 0 and behaviour.on_first_run else behaviour.on_run
        self._num_runs += 1
        _RUNNING.append(self)
        if behaviour.latency_ms:
            time.sleep(behaviour.latency_ms / 1e3)
        others = [session for session in _RUNNING if session is not self]
        _RUNNING.remove(self)
        if behaviour.alone and others:
            raise RuntimeError("the fake runs alone")
        _commit(fault, behaviour)
        offset = 1.0 if fault == "wrong" else 0.0
        values = [inputs[spec.name] for spec in self.signature.inputs]
        return {
            spec.name: (values[min(i, len(values) - 1)] * self._factor + offset).astype(numpy_dtype(spec.dtype))
            for i, spec in enumerate(self.signature.outputs)
        }

    def _release(self) -> None:
        return None


def _commit(fault: Fault | None, behaviour: Behaviour) -> None:
    """Fail in the way asked for; `wrong` is not a failure here."""
    if fault == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif fault == "hang":
        while True:
            time.sleep(3600)
    elif fault == "oom":
        _fill_memory(behaviour.oom_bytes)
    elif fault == "raise":
        raise ValueError("the fake was told to raise")


def _fill_memory(limit_bytes: int) -> None:
    blocks: list[Any] = []
    while len(blocks) * _BLOCK_BYTES < limit_bytes:
        # Ones, because untouched zero pages take no memory; the pause lets a watcher see the growth.
        blocks.append(np.ones(_BLOCK_BYTES, np.uint8))
        time.sleep(_BLOCK_PAUSE_S)
    raise MemoryError


ROW = BackendRow(
    id="fake",
    title="Fake",
    library=None,
    formats=("fake",),
    devices=("cpu",),
    precisions=tuple(Precision),
    target=f"{__name__}:FakeBackend",
    options={"gain": Option("int", "multiplies the factor; default 1")},
)
