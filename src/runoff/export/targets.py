"""Every runtime of the field, and how Runoff reaches it: as data, with what of it was ever run.

Knows no runtime and no model. `proven` says what the tests of this repository do with a path, and is never more than
that; what is installed on this machine is looked up, and says nothing about whether it works.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from runoff.backends import table
from runoff.backends.execution_providers import EXECUTION_PROVIDERS
from runoff.environment import javascript
from runoff.environment.libraries import LIBRARIES, is_importable

Way: TypeAlias = Literal["backend", "execution provider", "export", "plug-in", "not at all"]
Proof: TypeAlias = Literal["run", "checked", "never"]
"""`run`: the tests run models on it; `checked`: they make its files and inspect them; `never`: neither."""
Here: TypeAlias = Literal["ready", "not installed", "other platform", "unknown"]

PROOFS: dict[Proof, str] = {"run": "runs in the tests", "checked": "made and checked, not run", "never": "never run"}


class Target(msgspec.Struct, frozen=True):
    """A runtime and the way to it.

    Attributes:
        vendor: whose hardware or platform it is for.
        way: the kind of way; `plug-in` means that a third party can add a row, and that none is known.
        through: the id of the backend, the name of the execution provider, or the format that is exported.
        proven: see `Proof`.
        command: what to type; None where there is nothing to type.
        note: what else decides, in one line.
    """

    id: str
    title: str
    vendor: str
    way: Way
    through: str
    proven: Proof
    command: str | None = None
    note: str = ""


def _export(format_id: str) -> str:
    return f"runoff export MODEL --to {format_id}"


TARGETS: tuple[Target, ...] = (
    Target("torch", "PyTorch", "any", "backend", "torch", "run", _export("torch"), "eager and torch.compile; CPU"),
    Target("aoti", "AOTInductor", "any", "backend", "torch", "run", _export("aoti"), "machine code, for one machine"),
    Target("torchscript", "TorchScript", "any", "backend", "torch", "run", _export("torchscript"), "deprecated"),
    Target("hf", "Hugging Face Transformers", "any", "backend", "hf", "run", None, "opens the folder as it is"),
    Target("onnx", "ONNX Runtime", "any", "backend", "onnx", "run", _export("onnx"), "CPU"),
    Target(
        "openvino", "OpenVINO", "Intel", "backend", "openvino", "run", _export("openvino"), "CPU; GPU and NPU never"
    ),
    Target("ncnn", "ncnn", "any, phones first", "backend", "ncnn", "run", _export("ncnn"), "static shapes; CPU"),
    Target("coreml", "Core ML", "Apple", "backend", "coreml", "checked", _export("coreml"), "predicts on macOS"),
    Target(
        "apple-vision", "Apple Vision", "Apple", "export", "mlpackage", "checked", _export("coreml"), "takes Core ML"
    ),
    Target("litert", "LiteRT", "Google", "backend", "litert", "run", _export("litert"), "static shapes; CPU"),
    Target("coral", "Coral Edge TPU", "Google", "backend", "litert", "never", None, "a delegate of LiteRT; int8 only"),
    Target("mediapipe", "MediaPipe Tasks", "Google", "backend", "mediapipe", "run", None, "opens task files; CPU"),
    Target(
        "executorch", "ExecuTorch", "Meta", "backend", "executorch", "run", _export("executorch"), "static shapes; CPU"
    ),
    Target("tensorrt", "TensorRT", "NVIDIA", "backend", "trt", "never", _export("trt"), "bound to version and GPU"),
    Target(
        "tensorrt-ort", "TensorRT by ONNX Runtime", "NVIDIA", "execution provider", "TensorrtExecutionProvider", "never"
    ),
    Target("cuda", "CUDA by ONNX Runtime", "NVIDIA", "execution provider", "CUDAExecutionProvider", "never"),
    Target("tensorrt-rtx", "TensorRT RTX", "NVIDIA", "execution provider", "NvTensorRTRTXExecutionProvider", "never"),
    Target(
        "deepstream", "DeepStream", "NVIDIA", "export", "onnx", "never", _export("onnx"), "nvinfer builds from ONNX"
    ),
    Target("rocm", "MIGraphX", "AMD", "execution provider", "MIGraphXExecutionProvider", "never"),
    Target("vitis-ai", "Vitis AI", "AMD", "execution provider", "VitisAIExecutionProvider", "never"),
    Target("directml", "DirectML", "Microsoft", "execution provider", "DmlExecutionProvider", "never"),
    Target("qnn", "QNN (AI Engine Direct)", "Qualcomm", "execution provider", "QNNExecutionProvider", "never"),
    Target("snpe", "SNPE", "Qualcomm", "export", "onnx", "never", _export("onnx"), "its converter takes ONNX"),
    Target("hexagon", "Hexagon NPU", "Qualcomm", "execution provider", "QNNExecutionProvider", "never", None, "by QNN"),
    Target(
        "neuropilot", "NeuroPilot", "MediaTek", "export", "litert", "never", _export("litert"), "its converter takes it"
    ),
    Target("nnapi", "NNAPI", "Android", "execution provider", "NnapiExecutionProvider", "never", None, "deprecated"),
    Target("xnnpack", "XNNPACK", "Arm, x86", "execution provider", "XnnpackExecutionProvider", "never"),
    Target("rknn", "RKNN", "Rockchip", "export", "onnx", "never", _export("onnx"), "rknn-toolkit2 takes ONNX"),
    Target("rknpu", "RKNPU", "Rockchip", "execution provider", "RknpuExecutionProvider", "never", None, "RK1808"),
    Target(
        "ort-web",
        "ONNX Runtime Web",
        "browsers",
        "backend",
        "ort-web",
        "run",
        _export("web"),
        "a page; Node.js, Chromium",
    ),
    Target("webgpu", "WebGPU", "browsers", "execution provider", "WebGpuExecutionProvider", "never"),
    Target("tfjs", "TensorFlow.js", "browsers", "backend", "tfjs", "run", _export("tfjs"), "a page; Node.js, Chromium"),
    Target("iree", "IREE", "any", "backend", "iree", "run", _export("iree"), "machine code; CPU"),
    Target("tvm", "Apache TVM", "any", "plug-in", "", "never", None, "tried; too slow untuned, see docs/LOG.md"),
)


class TargetState(msgspec.Struct, frozen=True):
    """A target, and whether what it needs is installed on this machine."""

    target: Target
    here: Here


def list_targets(available_providers: Callable[[], tuple[str, ...]]) -> list[TargetState]:
    """Every target with what is known of it here; nothing is run.

    Args:
        available_providers: answers the execution providers of the installed ONNX Runtime.
    """
    providers = available_providers()
    return [TargetState(target, _here(target, providers)) for target in TARGETS]


def _here(target: Target, providers: tuple[str, ...]) -> Here:
    if target.way == "backend":
        row = table.row(target.through)
        if not row.runs_on(sys.platform):
            return "other platform"
        if row.library is None:
            fetched = shutil.which("node") is not None and javascript.packages_folder(row.id).is_dir()
            return "ready" if fetched else "not installed"
        library = next((library for library in LIBRARIES if library.id == row.library), None)
        return "ready" if library is not None and is_importable(library.import_name) else "not installed"
    if target.way == "execution provider":
        return "ready" if target.through in providers else "not installed"
    return "unknown"


def check_targets() -> list[str]:
    """What the table names that does not exist, for its test."""
    backends, providers = set(table.rows()), {row.name for row in EXECUTION_PROVIDERS}
    known = {"backend": backends, "execution provider": providers, "export": _formats()}
    return [
        f"{target.id}: no {target.way} {target.through!r}"
        for target in TARGETS
        if target.through not in known.get(target.way, {""})
    ]


def _formats() -> set[str]:
    return {format_id for row in table.rows().values() for format_id in row.formats}
