"""A model in a process of Node.js: arrays in, arrays out, over a pipe. What the JavaScript runtimes share.

Both sides speak the frames of `runoff/web/page/tensors.js`: a length, a JSON header, and the bytes of the tensors that
it lists. The process runs Runoff's own code and the packages pinned in the user cache, never code of the model.
"""

from __future__ import annotations

import math
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

import msgspec
import numpy as np

from runoff import settings
from runoff.backends.protocol import CheckedSession, session_closed
from runoff.environment import javascript
from runoff.errors import FormatMismatch, RuntimeLoadError, RuntimeRunError
from runoff.models.arrays import Array, Arrays, dtype_name, numpy_dtype
from runoff.models.folder import Package, resolve
from runoff.types import DType, Signature

CONFIG_FILE = "page.json"
"""What the page and its files are, beside `index.html`."""
_POLL_S = 0.05
_TAIL_BYTES = 2000
_MAX_HEADER_BYTES = 1 << 24
_MAX_FRAME_BYTES = 1 << 32


class FrameTensor(msgspec.Struct, frozen=True):
    """A tensor as the header of a frame lists it."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    bytes: int


class FrameHeader(msgspec.Struct, frozen=True):
    """The header of a frame that JavaScript wrote."""

    tensors: tuple[FrameTensor, ...] = ()
    error: str | None = None
    details: dict[str, Any] = {}


def encode_frame(header: Mapping[str, Any], arrays: Arrays) -> list[bytes]:
    """A frame in pieces: length, header and the bytes of each array."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    listed = [
        # ascontiguousarray makes a row of a scalar.
        FrameTensor(name, dtype_name(array.dtype), arrays[name].shape, array.nbytes)
        for name, array in contiguous.items()
    ]
    text = msgspec.json.encode({**header, "tensors": listed})
    return [len(text).to_bytes(4, "little"), text, *(array.tobytes() for array in contiguous.values())]


def decode_frame(data: bytes) -> tuple[FrameHeader, dict[str, Array]]:
    """A whole frame that JavaScript wrote.

    Raises:
        FormatMismatch: not a frame, or its tensors are not of the size that it says.
    """
    try:
        length = int.from_bytes(data[:4], "little")
        header = msgspec.json.decode(data[4 : 4 + length], type=FrameHeader)
        return header, _arrays(header, memoryview(data)[4 + length :])
    except (msgspec.DecodeError, ValueError, TypeError, KeyError) as error:
        raise FormatMismatch(f"a frame of {len(data)} bytes cannot be read: {error}") from error


def _arrays(header: FrameHeader, data: memoryview) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    offset = 0
    for tensor in header.tensors:
        dtype = numpy_dtype(tensor.dtype)
        if tensor.bytes != math.prod(tensor.shape) * dtype.itemsize or offset + tensor.bytes > len(data):
            raise ValueError(f"tensor {tensor.name!r} has {tensor.bytes} bytes for {tensor.dtype}{list(tensor.shape)}")
        piece = data[offset : offset + tensor.bytes]
        arrays[tensor.name] = np.frombuffer(piece, dtype).reshape(tensor.shape).copy()
        offset += tensor.bytes
    return arrays


class NodeProcess:
    """A process of Node.js that holds one model; ends with this one, since its input closes.

    Args:
        package_set: `ort-web` or `tfjs`: the runtime, and the packages that it is in.

    Raises:
        BackendNotInstalled: Node.js or the packages are missing.
    """

    def __init__(self, package_set: str) -> None:
        node = javascript.find_node()
        modules = javascript.installed_packages(package_set)
        self.version = javascript.node_version(str(node))
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [str(node), "--no-warnings", str(javascript.WEB / "node" / "worker.js"), package_set, str(modules)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pipe("stdout"), selectors.EVENT_READ)

    def call(self, header: Mapping[str, Any], arrays: Arrays) -> dict[str, Array]:
        """Send a frame and wait for the answer.

        Raises:
            RuntimeRunError: JavaScript threw, or the process ended or hung.
        """
        deadline = time.monotonic() + settings.worker_timeout_s()
        try:
            for piece in encode_frame(header, arrays):
                view = memoryview(piece)
                while view:
                    view = view[self._pipe("stdin").write(view) or 0 :]
        except OSError as error:
            raise RuntimeRunError(f"Node.js {self._death()}") from error
        start = self._read(4, deadline)
        length = int.from_bytes(start, "little")
        if length > _MAX_HEADER_BYTES:
            raise RuntimeRunError(f"Node.js answered with a header of {length} bytes")
        text = self._read(length, deadline)
        try:
            answer = msgspec.json.decode(text, type=FrameHeader)
            size = sum(tensor.bytes for tensor in answer.tensors)
            if not 0 <= size <= _MAX_FRAME_BYTES:
                raise ValueError(f"{size} bytes of tensors")
            arrays = _arrays(answer, memoryview(self._read(size, deadline)))
        except (msgspec.DecodeError, ValueError) as error:
            raise RuntimeRunError(f"Node.js gave no answer that can be read: {error}") from error
        if answer.error is not None:
            raise RuntimeRunError(answer.error)
        return dict(arrays)

    def close(self) -> None:
        """End the process. Twice is fine."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe and not pipe.closed:
                pipe.close()

    def _pipe(self, name: Literal["stdin", "stdout"]) -> IO[bytes]:
        pipe: IO[bytes] | None = getattr(self._process, name)
        assert pipe is not None  # noqa: S101 - a pipe was asked for
        return pipe

    def _read(self, count: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < count:
            if self._selector.select(_POLL_S):
                chunk = os.read(self._pipe("stdout").fileno(), min(count - len(data), 1 << 20))
                if not chunk:
                    raise RuntimeRunError(f"Node.js {self._death()}")
                data += chunk
            elif time.monotonic() > deadline:
                self._process.kill()
                raise RuntimeRunError("Node.js hung and was stopped", hint="raise RUNOFF_WORKER_TIMEOUT_S")
        return bytes(data)

    def _death(self) -> str:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - _TAIL_BYTES))
        said = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return f"ended with exit code {status}{': ' + said[-1].strip() if said else ''}"


class NodeSession(CheckedSession):
    """An opened model in a process of Node.js.

    Args:
        package: the package that was opened.
        package_set: see `NodeProcess`.
        opening: what the process is told to open.
        facts: what really runs, besides the version of Node.
    """

    concurrency: Literal["thread", "exclusive"] = "exclusive"

    def __init__(self, package: Package, package_set: str, opening: Mapping[str, Any], facts: dict[str, Any]) -> None:
        process = NodeProcess(package_set)
        try:
            process.call({"op": "open", **opening}, {})
        except RuntimeRunError as error:
            process.close()
            raise RuntimeLoadError(
                f"{facts['runtime']} cannot open package {package.id!r}: {error.message}",
                hint=error.hint or "check the files with `runoff verify`, or export the package again",
            ) from error
        super().__init__(package.signature, {**facts, "node": process.version})
        self._process: NodeProcess | None = process

    def _compute(self, inputs: Arrays) -> dict[str, Array]:
        if self._process is None:
            raise session_closed()
        try:
            found = self._process.call({"op": "run"}, inputs)
            return {spec.name: found[spec.name] for spec in self.signature.outputs}
        except RuntimeRunError as error:
            raise RuntimeRunError(
                f"{self.facts['runtime']} failed while computing: {error.message}", hint=error.hint
            ) from error

    def _release(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None


def check_files(package: Package) -> None:
    """Refuse a package whose files are not all there at their size: the page is more than what Node opens.

    Raises:
        RuntimeLoadError: one is missing, truncated or longer.
    """
    for file in package.entry.files:
        path = package.root / file.path
        size = path.stat().st_size if path.is_file() else None
        if size != file.bytes:
            state = "is missing" if size is None else f"has {size} bytes, expected {file.bytes}"
            raise RuntimeLoadError(
                f"cannot open package {package.id!r}: {path.name} {state}",
                hint="check the files with `runoff verify`, or export the package again",
            )


def package_file(package: Package, name: str) -> str:
    """The path of a file beside the page, which must be one of the package.

    Raises:
        RuntimeLoadError: the manifest does not list it.
        PathEscapes: a symlink leads out of the model folder.
    """
    place = PurePosixPath(package.entry.files[0].path).with_name(name).as_posix()
    if place not in {file.path for file in package.entry.files}:
        raise RuntimeLoadError(
            f"cannot open package {package.id!r}: {name!r} is none of its files", hint="export the package again"
        )
    return str(resolve(package.root, place).resolve())


class PageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`page.json`: what the page shows and runs.

    Attributes:
        model: the model's file, relative to the page.
        external: the files of its weights beside it, where they are not in it.
        providers: what it can be computed on in a browser, the usual one first.
        golden: whether the golden pair lies beside it as `golden.bin`.
    """

    name: str
    runtime: Literal["ort-web", "tfjs"]
    version: str
    signature: Signature
    precision: str
    model: str
    model_bytes: int
    external: tuple[str, ...] = ()
    providers: tuple[str, ...]
    task: str | None = None
    preprocess: dict[str, Any] = {}
    labels: tuple[str, ...] = ()
    golden: bool = False
    limit: float


def read_config(path: Path, runtime: str) -> PageConfig:
    """The `page.json` beside a file of a page.

    Raises:
        FormatMismatch: there is none, or it is for another runtime.
    """
    place = path.parent / CONFIG_FILE
    try:
        config = msgspec.json.decode(place.read_bytes(), type=PageConfig)
    except (OSError, msgspec.DecodeError) as error:
        raise FormatMismatch(
            f"{place} cannot be read: {error}", hint="such pages are made by `runoff export`"
        ) from error
    if config.runtime != runtime:
        raise FormatMismatch(f"{place} is for {config.runtime}, not for {runtime}")
    for name in (config.model, *config.external):
        if Path(name).name != name:
            raise FormatMismatch(f"{place} names {name!r}, which is no file beside it")
    return config
