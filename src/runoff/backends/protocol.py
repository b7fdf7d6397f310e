"""The seam between Runoff and the runtimes: `Backend` opens a `Package` as a `Session`.

Knows no runtime library. A backend is one file beside this one and one row in `table.py`; a third party's
comes through the entry-point group `runoff.backends`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from runoff.errors import SessionClosed
from runoff.models.arrays import Array, Arrays, InputCheck
from runoff.models.folder import Package
from runoff.types import CPU, Device, Precision, Signature

PrecisionHint: TypeAlias = Precision | Literal["default"] | None
"""What a session computes in: a precision, `default` for the runtime's own choice, None for the package's own."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How to open a package.

    Attributes:
        device: where to run; the CPU unless told.
        num_threads: threads for one `run`; None leaves it at the cores that this process may use.
        precision: see `PrecisionHint`.
        backend: options of this session's backend, as listed by its row; checked by `table.check_options`.
    """

    device: Device = CPU
    num_threads: int | None = None
    precision: PrecisionHint = None
    backend: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Session(Protocol):
    """An opened package on a device: arrays in, arrays out.

    Attributes:
        signature: the model's named inputs and outputs.
        concurrency: `thread` when `run` may be called from several threads at once, else `exclusive`.
        facts: what really runs, such as {"precision": "bf16", "providers": ["CPUExecutionProvider"]}.
    """

    signature: Signature
    concurrency: Literal["thread", "exclusive"]
    facts: Mapping[str, Any]

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Compute the outputs by name; done when it returns.

        Raises:
            InputError: the inputs do not fit the signature; checked before the runtime sees them.
            RuntimeRunError: the runtime failed.
            SessionClosed: the session was closed.
        """
        ...

    def close(self) -> None:
        """Free what the session holds. Twice is fine."""
        ...


class Backend(Protocol):
    """A runtime that can open packages. Instances are cheap and hold no state."""

    def open(self, package: Package, options: SessionOptions) -> Session:
        """Open a package.

        Raises:
            RuntimeLoadError: the runtime refuses it; the runtime's own error is the cause.
            BackendNotInstalled: the library is missing or broken.
        """
        ...

    def read_signature(self, format_id: str, path: Path) -> Signature:
        """The signature of a bare file or folder of one of this backend's formats.

        Raises:
            FormatMismatch: the content is not of that format.
        """
        ...


def session_closed() -> SessionClosed:
    """The error of a `run` after, or during, `close`."""
    return SessionClosed("this session was closed", hint="open the model again")


class CheckedSession(ABC):
    """What every session shares: the signature check before the runtime, and `run` after `close` refused.

    A backend's session subclasses it, implements `_compute` (inputs are already checked) and `_release`.
    """

    concurrency: Literal["thread", "exclusive"] = "thread"

    def __init__(self, signature: Signature, facts: Mapping[str, Any]) -> None:
        self.signature = signature
        self.facts = facts
        self._check = InputCheck(signature)
        self._closed = False

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Check the inputs, compute, and answer the outputs by name; see `Session.run`."""
        if self._closed:
            raise session_closed()
        self._check(inputs)
        return self._compute(inputs)

    def close(self) -> None:
        """Free what the session holds. Twice is fine."""
        if not self._closed:
            self._closed = True
            self._release()

    @abstractmethod
    def _compute(self, inputs: Arrays) -> dict[str, Array]:
        """Compute the outputs of inputs that were checked."""

    @abstractmethod
    def _release(self) -> None:
        """Free what the session holds; called once."""

    def __enter__(self) -> CheckedSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
