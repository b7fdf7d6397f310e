"""CUDA without a framework: device memory, a stream and recorded graphs, by NVIDIA's own binding.

Knows no runtime of models. The binding has CUDA's runtime in it and asks only for a driver; every call that fails is an
error in CUDA's own words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import runtime as cudart

from runoff.errors import RuntimeLoadError, RuntimeRunError
from runoff.models.arrays import Array
from runoff.types import Device

_TO_DEVICE = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
_TO_HOST = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
_MAJOR = cudart.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor
_MINOR = cudart.cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor
_OUT_OF_MEMORY = cudart.cudaError_t.cudaErrorMemoryAllocation
_OLD_DRIVER = cudart.cudaError_t.cudaErrorInsufficientDriver


class Stream:
    """A stream of one GPU, in whose order everything happens; belongs to the thread that called `use` last.

    Raises:
        RuntimeLoadError: there is no such GPU, or no driver for it.
    """

    def __init__(self, device: Device) -> None:
        self.index = device.index or 0
        try:
            count = int(_call(cudart.cudaGetDeviceCount))
            if self.index >= count:
                raise RuntimeLoadError(f"there is no device {device}: CUDA sees {count} GPUs")
            self.use()
            self._stream = _call(cudart.cudaStreamCreateWithFlags, cudart.cudaStreamNonBlocking)
        except RuntimeRunError as error:
            raise RuntimeLoadError(f"device {device} cannot be used: {error.message}", hint=error.hint) from error

    @property
    def handle(self) -> int:
        """The stream as libraries take it."""
        return int(self._stream)

    def use(self) -> None:
        """Make its GPU the one that the calling thread works on."""
        _call(cudart.cudaSetDevice, self.index)

    def compute_capability(self) -> str:
        """Such as `8.9`."""
        major, minor = (int(_call(cudart.cudaDeviceGetAttribute, part, self.index)) for part in (_MAJOR, _MINOR))
        return f"{major}.{minor}"

    def name(self) -> str:
        """What NVIDIA calls the GPU."""
        raw: bytes = _call(cudart.cudaGetDeviceProperties, self.index).name
        return raw.split(b"\0")[0].decode(errors="replace")

    def wait(self) -> None:
        """Until everything that was put on the stream is done."""
        _call(cudart.cudaStreamSynchronize, self._stream)

    def copy_in(self, buffer: Buffer, array: Array) -> None:
        """Copy a contiguous array to the device; the array must live until `wait`."""
        _call(cudart.cudaMemcpyAsync, buffer.pointer, array.ctypes.data, array.nbytes, _TO_DEVICE, self._stream)

    def copy_out(self, array: Array, buffer: Buffer) -> None:
        """Copy from the device into a contiguous array, which is filled after `wait`."""
        _call(cudart.cudaMemcpyAsync, array.ctypes.data, buffer.pointer, array.nbytes, _TO_HOST, self._stream)

    def record(self, work: Callable[[], None]) -> Graph:
        """Record what `work` puts on the stream, without doing it."""
        _call(
            cudart.cudaStreamBeginCapture, self._stream, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )
        try:
            work()
        finally:
            # Also after a failure: a stream left recording takes nothing else.
            status, graph = cudart.cudaStreamEndCapture(self._stream)
        _check(cudart.cudaStreamEndCapture, status)
        return Graph(graph, self._stream)

    def close(self) -> None:
        """Destroy the stream."""
        _call(cudart.cudaStreamDestroy, self._stream)


class Graph:
    """Recorded work of a stream, done again with one call."""

    def __init__(self, recorded: Any, stream: Any) -> None:
        self._stream = stream
        try:
            self._ready = _call(cudart.cudaGraphInstantiate, recorded, 0)
        finally:
            _call(cudart.cudaGraphDestroy, recorded)

    def replay(self) -> None:
        """Put the work on its stream again, with the addresses that it was recorded with."""
        _call(cudart.cudaGraphLaunch, self._ready, self._stream)

    def close(self) -> None:
        """Free the graph."""
        _call(cudart.cudaGraphExecDestroy, self._ready)


class Buffer:
    """Device memory that grows and is used again."""

    def __init__(self) -> None:
        self.pointer = 0
        self.nbytes = 0

    def hold(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> bool:
        """Have room for an array; answers whether the memory is another one than before."""
        wanted = max(1, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        if wanted <= self.nbytes:
            return False
        self.free()
        self.pointer = int(_call(cudart.cudaMalloc, wanted))
        self.nbytes = wanted
        return True

    def free(self) -> None:
        """Give the memory back."""
        pointer, self.pointer, self.nbytes = self.pointer, 0, 0
        if pointer:
            _call(cudart.cudaFree, pointer)


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    status, *values = function(*arguments)
    _check(function, status)
    return values[0] if values else None


def _check(function: Callable[..., Any], status: Any) -> None:
    if status == cudart.cudaError_t.cudaSuccess:
        return
    text = cudart.cudaGetErrorString(status)[1]
    why = text.decode() if text else str(status)
    hint = None
    if status == _OUT_OF_MEMORY:
        hint = "use a smaller batch"
    elif status == _OLD_DRIVER:
        hint = "is NVIDIA's driver installed? For a driver of CUDA 12: pip install 'cuda-bindings<13'"
    raise RuntimeRunError(f"CUDA failed in {function.__name__}: {why}", hint=hint)
