"""The accelerators of this machine: NVIDIA GPUs through NVML, Intel GPUs and NPUs by their device nodes on Linux.

That a device is there does not say that a library can drive it: that shows when a session is opened. NVML numbers
GPUs by PCI bus; CUDA numbers the fastest first, so indices may differ where unlike GPUs share a machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from runoff import settings
from runoff.environment.cgroup import read_text

_INTEL = "0x8086"
"""The PCI vendor number."""


class Gpu(msgspec.Struct, frozen=True):
    """One NVIDIA GPU that CUDA programs started from here can see.

    Attributes:
        uuid: what CUDA_VISIBLE_DEVICES may name it by.
        memory_bytes: None where it shares the main memory.
        compute_capability: such as `9.0`.
    """

    name: str
    uuid: str
    memory_bytes: int | None
    driver: str
    compute_capability: str


class Nvidia(msgspec.Struct, frozen=True):
    """What NVML tells.

    Attributes:
        cuda_version: the newest CUDA that the driver supports, or None.
        note: why there is nothing, or less than expected.
    """

    gpus: tuple[Gpu, ...] = ()
    cuda_version: str | None = None
    note: str | None = None


def read_nvidia() -> Nvidia:
    """Ask NVML. A machine without a driver, or with a broken one, has no GPUs and a note."""
    try:
        import pynvml
    except ImportError as error:
        return Nvidia(note=f"NVIDIA GPUs were not looked for: {error}")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Nvidia(note=f"no NVIDIA GPU: {error}")
    try:
        version = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        gpus = [_read_gpu(pynvml, index, driver) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        return Nvidia(note=f"no usable NVIDIA GPU: {error}")
    finally:
        pynvml.nvmlShutdown()
    seen, note = visible(tuple(gpus), settings.visible_cuda_devices())
    return Nvidia(seen, f"{version // 1000}.{version % 1000 // 10}", note)


def _read_gpu(nvml: Any, index: int, driver: str) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    try:
        memory_bytes = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError_NotSupported:
        memory_bytes = None
    return Gpu(
        name=str(nvml.nvmlDeviceGetName(handle)),
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
        memory_bytes=memory_bytes,
        driver=driver,
        compute_capability=f"{major}.{minor}",
    )


def visible(gpus: tuple[Gpu, ...], wanted: str | None) -> tuple[tuple[Gpu, ...], str | None]:
    """The GPUs that CUDA shows under CUDA_VISIBLE_DEVICES, in its order, and a note when it hides some.

    Args:
        gpus: all GPUs of the machine.
        wanted: the variable's value: indices or beginnings of UUIDs; None when it is not set. As in CUDA, what stands
            after an entry that names no GPU is ignored.
    """
    if wanted is None:
        return gpus, None
    seen: list[Gpu] = []
    for entry in (part.strip() for part in wanted.split(",")):
        named = [
            gpu
            for index, gpu in enumerate(gpus)
            if entry == str(index) or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))
        ]
        if len(named) != 1:
            break
        seen += named
    hidden = len(gpus) - len(seen)
    note = f"CUDA_VISIBLE_DEVICES={wanted} hides {hidden} of {len(gpus)} NVIDIA GPUs" if hidden else None
    return tuple(seen), note


def read_intel(root: Path) -> tuple[str, ...]:
    """Kinds of Intel accelerators by the device nodes below `root`: `gpu`, `npu`. Empty where there is no Linux."""
    found = []
    for kind, pattern in (
        ("gpu", "sys/class/drm/renderD*/device/vendor"),
        ("npu", "sys/class/accel/accel*/device/vendor"),
    ):
        if any(read_text(path).strip() == _INTEL for path in root.glob(pattern)):
            found.append(kind)
    return tuple(found)
