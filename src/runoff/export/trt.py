"""To `trt`: a TensorRT engine from ONNX, built on the GPU that it will run on.

Runs in the export worker. Knows no plan and no manifest. Written against the documented interface that TensorRT 8.6 and
10 share; it has never run on a GPU. The ONNX file is checked first (`trt_check.py`), which needs none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import tensorrt as trt

from runoff.backends import table
from runoff.backends.engine import EngineNote, Here, note_path, plan_profiles
from runoff.errors import ExportError
from runoff.export.step import Made, StepOptions, with_batch
from runoff.models.cache import subfolder
from runoff.models.compiled import remember_compiled
from runoff.models.folder import Package
from runoff.models.staging import write_atomically
from runoff.types import Device, Precision

MAIN_FILE = "model.engine"
_MAJOR = int(trt.__version__.partition(".")[0])


def from_onnx(source: Package, destination: Path, options: StepOptions) -> Made:
    """Build an engine at fp32, fp16 or int8 for this version of TensorRT and this GPU.

    TF32 is switched off: an fp32 engine computes in fp32. An int8 engine takes its ranges from the file, which must
    hold QuantizeLinear nodes; TensorRT has deprecated calibration of its own.

    Raises:
        ExportError: the file has what TensorRT does not take, or the builder fails.
        RuntimeLoadError: there is no GPU.
    """
    # Loaded by name: the check reads ONNX by other libraries, and is no part of what builds.
    findings = table.load("runoff.export.trt_check:check_onnx")(
        source.main_file, options.precision, tensorrt_major=_MAJOR
    )
    signature = with_batch(source.signature, options.batch)
    profiles = plan_profiles(source.signature, options.batch, options.sizes)
    stream = table.load("runoff.backends.cuda:Stream")(Device("cuda"))
    here: Here = table.load("runoff.backends.trt:here")(stream)
    log = table.load("runoff.backends.trt:Log")()
    trt.init_libnvinfer_plugins(log, "")
    builder = trt.Builder(log)
    network = _network(builder, source, log)
    config = _config(builder, options.precision)
    for planned in profiles:
        profile = builder.create_optimization_profile()
        for name, (low, usual, high) in planned.shapes.items():
            profile.set_shape(name, low, usual, high)
        if config.add_optimization_profile(profile) < 0:
            raise ExportError(f"TensorRT refuses the profile {planned}: {log.take()}")
    cache = subfolder("timing") / f"tensorrt-{trt.__version__}-{here.capabilities[0]}"
    config.set_timing_cache(
        config.create_timing_cache(cache.read_bytes() if cache.is_file() else b""), ignore_mismatch=False
    )
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ExportError(f"TensorRT cannot build an engine of {source.id}: {log.take()}")
    path = destination / MAIN_FILE
    path.write_bytes(bytes(engine))
    write_atomically(cache, bytes(config.get_timing_cache().serialize()))
    requires = _requires(here)
    note_path(path).write_bytes(msgspec.json.encode(EngineNote(signature, options.precision, requires)))
    remember_compiled(path)
    details = {**findings, "gpu": stream.name(), "profiles": [str(profile) for profile in profiles]}
    return Made(MAIN_FILE, "tensorrt", {"tensorrt": trt.__version__}, requires, details=details)


def _network(builder: Any, source: Package, log: Any) -> Any:
    """The network of a file.

    Raises:
        ExportError: the parser refuses it; the message has its reasons.
    """
    # TensorRT 10 knows no other kind of batch.
    flags = 0 if _MAJOR >= 10 else 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(source.main_file)):
        reasons = [" ".join(parser.get_error(index).desc().split()) for index in range(parser.num_errors)]
        raise ExportError(f"TensorRT cannot read {source.id}: {'; '.join(reasons[:3]) or log.take()}")
    return network


def _config(builder: Any, precision: Precision) -> Any:
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if precision is Precision.FP16:
        config.set_flag(trt.BuilderFlag.FP16)
    elif precision is Precision.INT8:
        config.set_flag(trt.BuilderFlag.INT8)
    return config


def _requires(here: Here) -> dict[str, Any]:
    found = {
        "platform": here.platform,
        "tensorrt": here.tensorrt,
        "cuda": here.cuda.partition(".")[0] if here.cuda else None,
        "compute_capability": here.capabilities[0],
    }
    return {name: value for name, value in found.items() if value is not None}
