"""A process of our own that answers calls over a pipe, so that a crash, a hang or a leak stays in it.

The parent holds a `Child`; the child process runs a module that calls `serve(handlers)`. Both sides speak one
JSON document a line; nothing is pickled. Arrays travel as .npz files by path. The parent imports no runtime.
The child ends when the parent does: its pipe closes and, on Linux, the kernel signals it.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, TypeAlias

import msgspec
import psutil

from runoff import settings
from runoff.errors import ChildFailed, RunoffError

_POLL_S = 0.05
_PR_SET_PDEATHSIG = 1
_TAIL_BYTES = 2000

Handler: TypeAlias = Callable[..., Mapping[str, Any]]


class _Failure(msgspec.Struct):
    """What crosses the pipe of an error."""

    kind: str
    code: str
    message: str
    hint: str | None


class _Answer(msgspec.Struct):
    """One line from the child: a result, or an error."""

    result: dict[str, Any] = {}
    error: _Failure | None = None


class RemoteError(RunoffError):
    """An error that a handler raised in the child; `code` is the one of the original."""

    def __init__(self, kind: str, code: str, message: str, hint: str | None) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.code = code  # type: ignore[misc]


class Child:
    """An isolated Python process; a context manager. It finds the modules that this process finds.

    Args:
        module: the module that the child runs, such as `runoff.race.worker`.
        max_memory_bytes: resident memory at which the child is stopped, its own children counted in.
        environment: environment variables to set in the child.
    """

    def __init__(
        self, module: str, *, max_memory_bytes: int | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.started_s = time.perf_counter()
        self._max_memory_bytes = max_memory_bytes
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._process = subprocess.Popen(
            # -P: a file in the working directory must not pass for a library, unless this process takes it for one.
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
            env=settings.child_environment(
                PYTHONUNBUFFERED="1", PYTHONPATH=os.pathsep.join(sys.path), **dict(environment or {})
            ),
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._buffer = b""
        self._end: str | None = None

    @property
    def pid(self) -> int:
        """The process id of the child."""
        return self._process.pid

    def call(self, op: str, timeout_s: float, **arguments: Any) -> dict[str, Any]:
        """Call a handler and wait for its answer.

        Args:
            op: the handler's name.
            timeout_s: seconds to wait before the child is stopped.
            arguments: what JSON can hold.

        Raises:
            ChildFailed: the child crashed, hung, or used too much memory; it is gone.
            RemoteError: the handler raised; the child goes on.
        """
        if self._end is not None:
            raise ChildFailed(self._end)
        try:
            self._stdin.write(msgspec.json.encode({"op": op, "arguments": arguments}) + b"\n")
            self._stdin.flush()
        except BrokenPipeError as error:
            raise self._fail(self._death()) from error
        line = self._read_line(op, timeout_s)
        try:
            answer = msgspec.json.decode(line, type=_Answer)
        except msgspec.DecodeError as error:
            raise self._fail(f"answered {line[:80]!r}, which is no answer to {op!r}") from error
        if answer.error is not None:
            raise RemoteError(answer.error.kind, answer.error.code, answer.error.message, answer.error.hint)
        return answer.result

    def close(self) -> None:
        """End the child and whatever it started. Twice is fine."""
        self._end = self._end or "was closed"
        self._kill()
        self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        return self._process.stdout

    def _read_line(self, op: str, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            if self._selector.select(_POLL_S):
                chunk = os.read(self._stdout.fileno(), 1 << 20)
                if not chunk:
                    raise self._fail(self._death())
                self._buffer += chunk
            elif time.monotonic() > deadline:
                raise self._fail(f"hung: no answer to {op!r} within {timeout_s:g} s")
            elif self._max_memory_bytes is not None and (used := _memory_bytes(self.pid)) > self._max_memory_bytes:
                limit = self._max_memory_bytes
                raise self._fail(f"used {used / 2**20:.0f} MiB of memory, more than {limit / 2**20:.0f} MiB")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _death(self) -> str:
        """Why the child is gone, in words."""
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        if status >= 0:
            return f"ended with exit code {status}{self._tail()}"
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        why = ", most likely because the machine ran out of memory" if name == "SIGKILL" else self._tail()
        return f"crashed with {name}{why}"

    def _tail(self) -> str:
        """The last line that the child wrote to its standard error."""
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - _TAIL_BYTES))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()}" if lines else ""

    def _fail(self, why: str) -> ChildFailed:
        self._end = why
        self.close()
        return ChildFailed(why)

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._process.kill()
        self._process.wait()


def serve(handlers: Mapping[str, Handler]) -> None:
    """Answer calls until the pipe closes; the body of a child process.

    Whatever libraries print to standard output goes to standard error, so that it cannot reach the pipe.
    """
    _die_with_parent()
    _tie_forks_to_this_process()
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        request = msgspec.json.decode(line)
        try:
            answer = _Answer(dict(handlers[request["op"]](**request["arguments"])))
        except RunoffError as error:
            answer = _Answer(error=_Failure(type(error).__name__, error.code, error.message, error.hint))
        except MemoryError as error:
            answer = _Answer(error=_Failure(type(error).__name__, ChildFailed.code, "ran out of memory", None))
        except Exception as error:  # noqa: BLE001 - reported to the parent, which decides
            kind = type(error).__name__
            answer = _Answer(error=_Failure(kind, RunoffError.code, f"{kind}: {error}", None))
        pipe.write(msgspec.json.encode(answer) + b"\n")
        pipe.flush()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _tie_forks_to_this_process() -> None:
    """What a library forks ends with this process too, if the main thread forks it: the kernel watches that thread."""
    is_main = [False]

    def remember() -> None:
        is_main[0] = threading.current_thread() is threading.main_thread()

    def tie() -> None:
        if is_main[0]:
            _die_with_parent()

    os.register_at_fork(before=remember, after_in_child=tie)


def _memory_bytes(pid: int) -> int:
    """Resident memory of a process and its children; 0 when it is gone."""
    try:
        process = psutil.Process(pid)
        return sum(part.memory_info().rss for part in (process, *process.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0
