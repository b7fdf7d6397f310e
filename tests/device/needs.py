"""What the tests of this folder need and a machine may lack: each answers why they are skipped, or None."""

from __future__ import annotations

import onnxruntime
import torch

from runoff.environment.accelerators import read_nvidia
from runoff.environment.libraries import is_importable


def torch_cuda() -> str | None:
    """A GPU that PyTorch drives."""
    if torch.cuda.is_available():
        return None
    return "PyTorch sees no CUDA device" if torch.version.cuda else "this build of PyTorch has no CUDA"


def provider(name: str) -> str | None:
    """An execution provider, and a GPU for it."""
    if name not in onnxruntime.get_available_providers():
        return f"this build of ONNX Runtime has no {name}"
    return None if read_nvidia().gpus else "there is no NVIDIA GPU"


def tensorrt() -> str | None:
    """TensorRT with what builds and runs its engines, and a GPU."""
    missing = [name for name in ("tensorrt", "polygraphy", "cuda") if not is_importable(name)]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return None if read_nvidia().gpus else "there is no NVIDIA GPU"
