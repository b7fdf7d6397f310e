"""Engines that no TensorRT has built: packages and machines as data, for what is decided before an engine is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from fakes import race_facts
from fakes.model_files import make_folder, package_of
from runoff.environment.accelerators import Gpu
from runoff.environment.describe import Environment
from runoff.environment.libraries import LibraryFacts
from runoff.models.folder import ModelFolder, add_package
from runoff.models.staging import staging
from runoff.types import Precision

REQUIRES = {"platform": "linux-x86_64", "tensorrt": "10.3.0", "cuda": "12", "compute_capability": "8.9"}


def gpu_machine(
    *, tensorrt: str | None = "10.3.0", cuda: str | None = "12.6.77", capability: str = "8.9", driver_cuda: str = "12.8"
) -> Environment:
    """A Linux machine with one NVIDIA GPU."""
    machine = race_facts.environment()
    missing = None if tensorrt else "pip install 'runoff[trt10]'"
    return msgspec.structs.replace(
        machine,
        gpus=(Gpu("A GPU", "GPU-0", 24 << 30, "570.10", capability),),
        devices=("cpu", "cuda:0"),
        cuda_version=driver_cuda,
        cuda_toolkit_version=cuda,
        libraries={**machine.libraries, "tensorrt": LibraryFacts("TensorRT", tensorrt, install=missing)},
    )


def engine_folder(root: Path, precision: Precision = Precision.FP16, **requires: Any) -> ModelFolder:
    """A model with `onnx-fp32` and an engine with these requirements; None leaves one out."""
    folder = make_folder(root)
    wanted = {name: value for name, value in {**REQUIRES, **requires}.items() if value is not None}
    with staging(folder.root) as staged:
        entry = package_of(f"trt-{precision}", {"model.engine": b"ftrt\0"}, staged)
        made = msgspec.structs.replace(entry, backend="trt", format="trt", precision=precision, requires=wanted)
        return add_package(folder.root, made, staged)
