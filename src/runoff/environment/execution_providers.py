"""The execution providers of ONNX Runtime, asked in a short process of its own.

Only importing the library tells, and a broken one may raise, hang or end the process: then that is the answer.
"""

from __future__ import annotations

import signal
import subprocess
import sys

import msgspec

from runoff import settings

TIMEOUT_S = 30.0
"""Far beyond a cold start from a slow disk: giving up too early would change the fingerprint."""

_ASK = "import json, onnxruntime; print(json.dumps(onnxruntime.get_available_providers()))"


class Answer(msgspec.Struct, frozen=True):
    """The providers in ONNX Runtime's own order, or why they cannot be told."""

    providers: tuple[str, ...] = ()
    problem: str | None = None


class Question:
    """A question under way: it is asked when this is made, so that other probing goes on beside it.

    Args:
        timeout_s: seconds after which `answer` gives up.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        # -P: a file or folder in the working directory must not pass for a library.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _ASK],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=settings.child_environment(),
        )

    def answer(self) -> Answer:
        """Wait for the answer."""
        try:
            out, err = self._process.communicate(timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            self.close()
            return Answer(problem=f"broken: importing it took more than {self._timeout_s:g} s")
        if self._process.returncode != 0:
            return Answer(problem=f"broken: {_death(self._process.returncode, err)}")
        try:
            # The library may print something of its own first.
            return Answer(msgspec.json.decode(out.splitlines()[-1], type=tuple[str, ...]))
        except (IndexError, msgspec.DecodeError):
            return Answer(problem="broken: it was imported, but did not list its execution providers")

    def close(self) -> None:
        """End the process if it still runs. Twice is fine."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def __enter__(self) -> Question:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _death(returncode: int, err: bytes) -> str:
    if returncode < 0:
        try:
            name = signal.Signals(-returncode).name
        except ValueError:
            name = f"signal {-returncode}"
        return f"importing it ended the process by {name}"
    lines = err.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else f"importing it ended the process with exit code {returncode}"
