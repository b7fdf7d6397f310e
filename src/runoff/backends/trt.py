"""TensorRT: `.engine` files on NVIDIA GPUs, by the interface of tensor names that TensorRT 8.6 and 10 share.

An engine is machine code for one version of TensorRT and one kind of GPU: it is opened only where it fits, and only
when it was built on this machine or its author is trusted. Written against the documented interface; it has never run
on a GPU. What needs no GPU to be right is in `engine.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorrt as trt

from runoff.backends import table
from runoff.backends.cuda import Buffer, Graph, Stream
from runoff.backends.engine import Here, Profile, bare_dtype, choose_profile, engine_dtype, read_note, unmet
from runoff.backends.protocol import CheckedSession, Session, SessionOptions, session_closed
from runoff.environment.hardware import read_operating_system
from runoff.environment.libraries import cuda_toolkit_version, installed_version
from runoff.errors import FormatMismatch, RuntimeLoadError, RuntimeRunError
from runoff.models.arrays import Array, Arrays, narrow, numpy_dtype
from runoff.models.compiled import check_compiled
from runoff.models.folder import Package
from runoff.types import Device, Dim, Signature, TensorSpec

_REBUILD = "build it again here: runoff export MODEL --to trt --force"
_SHARES_PROFILES = int(trt.__version__.partition(".")[0]) >= 10
"""Whether several contexts may use one profile at once; TensorRT 8 allows one each."""
_MOST_GRAPHS = 8 if _SHARES_PROFILES else 1
"""Shapes whose graphs are kept: each has a context of its own, with the memory of one."""


class TrtBackend:
    """Opens packages in the format `trt`."""

    def open(self, package: Package, options: SessionOptions) -> Session:
        """Open a package; see `Backend.open`."""
        table.check_session("trt", options)
        own = package.entry.precision
        if options.precision not in (None, "default", own):
            raise RuntimeLoadError(
                f"package {package.id!r} was built to compute in {own}, not in {options.precision}",
                hint=f"build one: runoff export MODEL --to trt --precision {options.precision}",
            )
        stream = Stream(options.device)
        try:
            _check_fits(package, stream)
            log = Log()
            engine = _deserialize(package.main_file, log)
            return TrtSession(package, engine, log, stream, record=bool(options.backend.get("cuda_graph", False)))
        except BaseException:
            stream.close()
            raise

    def read_signature(self, format_id: str, path: Path) -> Signature:
        """The signature in the note beside an engine; without one the engine's own, which loads it."""
        note = read_note(path)
        if note is not None:
            return note.signature
        Stream(Device("cuda")).close()
        log = Log()
        try:
            engine = _deserialize(path, log)
        except RuntimeLoadError as error:
            raise FormatMismatch(error.message, hint=error.hint) from error
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        return Signature(
            tuple(_spec(engine, name) for name in inputs),
            tuple(_spec(engine, name) for name in names if name not in inputs),
        )


def _check_fits(package: Package, stream: Stream) -> None:
    """Refuse an engine that was built for something else, by the manifest or else by the note beside it."""
    requires = package.entry.requires
    if not requires:
        note = read_note(package.main_file)
        requires = note.requires if note else {}
    found = unmet(requires, here(stream))
    if found:
        raise RuntimeLoadError(f"package {package.id!r} cannot run here: {'; '.join(found)}", hint=_REBUILD)


def here(stream: Stream) -> Here:
    """What engines are held against, and what those that are built now are for."""
    system = read_operating_system()
    return Here(
        platform=f"{system.name.lower()}-{system.arch}",
        tensorrt=trt.__version__,
        cuda=cuda_toolkit_version(Path("/"), installed_version),
        capabilities=(stream.compute_capability(),),
    )


class Log(trt.ILogger):  # type: ignore[misc]  # tensorrt has no types
    """What TensorRT says, kept for the error that follows: its calls answer no more than that they failed."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._said: deque[str] = deque(maxlen=5)

    def log(self, severity: Any, message: str) -> None:
        """Called by TensorRT, from any thread; must not raise."""
        if severity in (trt.Logger.ERROR, trt.Logger.INTERNAL_ERROR):
            self._said.append(" ".join(message.split())[:300])

    def take(self) -> str:
        """Its latest errors, which are then forgotten."""
        said = "; ".join(dict.fromkeys(self._said)) or "it does not say why"
        self._said.clear()
        return said


class _Port(NamedTuple):
    """A tensor of the engine: what the signature says of it, and the dtype that the engine holds it in."""

    spec: TensorSpec
    dtype: np.dtype[np.generic]


class _Lane:
    """An execution context with its buffers and, where one was recorded, the graph of one shape."""

    def __init__(self, engine: Any, log: Log) -> None:
        self.context = engine.create_execution_context()
        if self.context is None:
            raise RuntimeRunError(f"TensorRT made no execution context: {log.take()}", hint="use a smaller batch")
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.buffers: dict[str, Buffer] = {}
        self.graph: Graph | None = None

    def close(self) -> None:
        if self.graph is not None:
            self.graph.close()
        for buffer in self.buffers.values():
            buffer.free()
        self.context = None


class TrtSession(CheckedSession):
    """An engine on a stream of its own; buffers are kept from run to run, one `run` at a time."""

    concurrency: Literal["thread", "exclusive"] = "exclusive"

    def __init__(self, package: Package, engine: Any, log: Log, stream: Stream, *, record: bool) -> None:
        facts = {
            "runtime": f"tensorrt {trt.__version__}",
            "device": f"cuda:{stream.index}",
            "precision": package.entry.precision.value,
            "gpu": stream.name(),
            "cuda_graph": record,
        }
        super().__init__(package.signature, facts)
        self._engine: Any = engine
        self._log = log
        self._stream = stream
        self._record = record
        self._feeds = [_port(package, engine, spec, trt.TensorIOMode.INPUT) for spec in self.signature.inputs]
        self._fetches = [_port(package, engine, spec, trt.TensorIOMode.OUTPUT) for spec in self.signature.outputs]
        self._profiles = _profiles(engine, [port.spec.name for port in self._feeds])
        self._lanes: dict[Any, _Lane] = {}

    def _compute(self, inputs: Arrays) -> dict[str, Array]:
        if self._engine is None:
            raise session_closed()
        arrays = {spec.name: _prepared(spec, inputs[spec.name], dtype) for spec, dtype in self._feeds}
        shapes = {name: array.shape for name, array in arrays.items()}
        profile = choose_profile(self._profiles, shapes)
        self._stream.use()
        lane = self._lane(shapes)
        if (lane.profile, lane.shapes) != (profile, shapes):
            self._shape(lane, profile, shapes)
        for name, array in arrays.items():
            self._stream.copy_in(lane.buffers[name], array)
        if lane.graph is not None:
            lane.graph.replay()
        else:
            self._enqueue(lane)
            if self._record:
                # The run above let TensorRT settle what it puts off until a shape is first used; this one only records.
                self._stream.wait()
                lane.graph = self._stream.record(lambda: self._enqueue(lane))
        answer = {}
        for spec, dtype in self._fetches:
            answer[spec.name] = np.empty(tuple(lane.context.get_tensor_shape(spec.name)), dtype)
            self._stream.copy_out(answer[spec.name], lane.buffers[spec.name])
        self._stream.wait()
        return {spec.name: answer[spec.name].astype(numpy_dtype(spec.dtype), copy=False) for spec, _ in self._fetches}

    def _lane(self, shapes: dict[str, tuple[int, ...]]) -> _Lane:
        """The lane for these shapes: one for all, or with graphs one for each, since a graph binds its context."""
        key = tuple(shapes.values()) if self._record else ()
        found = self._lanes.get(key)
        if found is None:
            while len(self._lanes) >= _MOST_GRAPHS:
                self._lanes.pop(next(iter(self._lanes))).close()
            found = self._lanes[key] = _Lane(self._engine, self._log)
        return found

    def _shape(self, lane: _Lane, profile: int, shapes: dict[str, tuple[int, ...]]) -> None:
        """Tell the context of new shapes, and give every tensor memory for its own."""
        context = lane.context
        # Forgotten first: after a failure the context is in no known state.
        lane.shapes = {}
        if lane.profile != profile:
            self._accept(context.set_optimization_profile_async(profile, self._stream.handle), "choose a profile")
            self._stream.wait()
            lane.profile = profile
        for name, shape in shapes.items():
            self._accept(context.set_input_shape(name, shape), f"take {name!r} of shape {list(shape)}")
        self._accept(not context.infer_shapes(), "infer the shapes of its outputs")
        for spec, dtype in (*self._feeds, *self._fetches):
            shape = tuple(context.get_tensor_shape(spec.name))
            if any(size < 0 for size in shape):
                raise RuntimeRunError(
                    f"the shape of output {spec.name!r} depends on the values of the inputs: {list(shape)}",
                    hint="open the model with another backend, such as onnx with the device cuda",
                )
            buffer = lane.buffers.setdefault(spec.name, Buffer())
            buffer.hold(shape, dtype)
            self._accept(context.set_tensor_address(spec.name, buffer.pointer), f"take an address for {spec.name!r}")
        lane.shapes = shapes

    def _enqueue(self, lane: _Lane) -> None:
        self._accept(lane.context.execute_async_v3(self._stream.handle), "run")

    def _accept(self, done: bool, what: str) -> None:
        if not done:
            raise RuntimeRunError(f"TensorRT failed to {what}: {self._log.take()}")

    def _release(self) -> None:
        self._stream.use()
        for lane in self._lanes.values():
            lane.close()
        self._lanes.clear()
        self._engine = None
        self._stream.close()


def _deserialize(path: Path, log: Log) -> Any:
    """Load an engine of which its user is known to trust the author.

    Raises:
        RuntimeLoadError: it was built elsewhere, or TensorRT refuses it.
    """
    check_compiled(path)
    trt.init_libnvinfer_plugins(log, "")
    runtime = trt.Runtime(log)
    # What a version-compatible engine carries besides its kernels; as trusted as these are.
    runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise RuntimeLoadError(f"TensorRT {trt.__version__} cannot load {path.name}: {log.take()}", hint=_REBUILD)
    return engine


def _port(package: Package, engine: Any, spec: TensorSpec, mode: Any) -> _Port:
    """A tensor of the signature as the engine has it.

    Raises:
        RuntimeLoadError: it has none of that name, or holds it in another dtype, or wants it in host memory.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    own = [name for name in names if engine.get_tensor_mode(name) == mode]
    if spec.name not in own:
        raise RuntimeLoadError(
            f"cannot open package {package.id!r}: its engine has {', '.join(own)}, not {spec.name!r}", hint=_REBUILD
        )
    if engine.is_shape_inference_io(spec.name):
        raise RuntimeLoadError(
            f"cannot open package {package.id!r}: {spec.name!r} holds sizes of other tensors, not data",
            hint="open the model with another backend, such as onnx with the device cuda",
        )
    dtype = engine_dtype(spec, engine.get_tensor_dtype(spec.name).name, package.id)
    return _Port(spec, numpy_dtype(dtype))


def _profiles(engine: Any, names: Sequence[str]) -> list[Profile]:
    """The engine's profiles; a tensor without dynamic dimensions has its one shape in each."""

    def shapes(name: str, index: int) -> Any:
        fixed = tuple(engine.get_tensor_shape(name))
        if all(size >= 0 for size in fixed):
            return fixed, fixed, fixed
        low, usual, high = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, index))
        return low, usual, high

    return [
        Profile({name: shapes(name, index) for name in names})
        for index in range(max(1, engine.num_optimization_profiles))
    ]


def _prepared(spec: TensorSpec, array: Array, dtype: np.dtype[np.generic]) -> Array:
    """The array as the engine holds it, in one piece."""
    return np.asarray(array if array.dtype == dtype else narrow(spec.name, array, dtype), order="C")


def _spec(engine: Any, name: str) -> TensorSpec:
    dims: list[Dim] = [
        size if size >= 0 else "batch" if axis == 0 else f"{name}_dim_{axis}"
        for axis, size in enumerate(engine.get_tensor_shape(name))
    ]
    return TensorSpec(name, bare_dtype(name, engine.get_tensor_dtype(name).name), tuple(dims))
