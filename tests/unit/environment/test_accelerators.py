"""GPUs: what NVML says, what CUDA_VISIBLE_DEVICES leaves of it, and Intel's device nodes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from runoff.environment.accelerators import Gpu, Nvidia, read_intel, visible
from runoff.settings import child_environment

_A = Gpu("NVIDIA L4", "GPU-aaaa1111", 24 << 30, "570.86", "8.9")
_B = Gpu("NVIDIA H200", "GPU-bbbb2222", 141 << 30, "570.86", "9.0")
_ASK = (
    "import msgspec; from runoff.environment.accelerators import *; print(msgspec.json.encode(read_nvidia()).decode())"
)

# A driver library of two GPUs, the second of which shares the main memory (3 is NVML_ERROR_NOT_SUPPORTED).
_DRIVER = r"""
#include <stdio.h>
typedef struct { unsigned long long total, free, used; } Memory;
int nvmlInit_v2(void) { return INIT; }
int nvmlInitWithFlags(unsigned flags) { return INIT; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return "Driver/library version mismatch"; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12080; return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "570.86.15"); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(size_t)(index + 1); return 0; }
int nvmlDeviceGetName(void *device, char *text, unsigned size) { snprintf(text, size, "NVIDIA Example"); return 0; }
int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
    snprintf(text, size, "GPU-%zu", (size_t)device); return 0;
}
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) { *major = 9; *minor = 0; return 0; }
int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
    if ((size_t)device == 2) return 3;
    memory->total = 1024ull << 20; return 0;
}
"""


def _nvidia(tmp_path: Path, *, init: int, **environment: str) -> Nvidia:
    """What is read in a process that finds the library above."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux to build a driver library")
    (tmp_path / "nvml.c").write_text(_DRIVER)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", f"-DINIT={init}", "-o", library, tmp_path / "nvml.c"], check=True)
    plain = {name: value for name, value in child_environment().items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", _ASK],
        env={**plain, "LD_LIBRARY_PATH": str(tmp_path), **environment},
        capture_output=True,
        check=True,
    )
    return msgspec.json.decode(done.stdout, type=Nvidia)


def test_gpus_are_read_when_there_is_a_driver(tmp_path: Path) -> None:
    assert _nvidia(tmp_path, init=0) == Nvidia(
        (
            Gpu("NVIDIA Example", "GPU-1", 1 << 30, "570.86.15", "9.0"),
            Gpu("NVIDIA Example", "GPU-2", None, "570.86.15", "9.0"),
        ),
        "12.8",
    )


def test_gpus_are_hidden_when_cuda_does_not_show_them(tmp_path: Path) -> None:
    nvidia = _nvidia(tmp_path, init=0, CUDA_VISIBLE_DEVICES="1")
    assert [gpu.uuid for gpu in nvidia.gpus] == ["GPU-2"]
    assert nvidia.note == "CUDA_VISIBLE_DEVICES=1 hides 1 of 2 NVIDIA GPUs"


def test_there_is_a_note_when_the_driver_is_broken(tmp_path: Path) -> None:
    nvidia = _nvidia(tmp_path, init=18)
    assert nvidia.gpus == ()
    assert nvidia.note is not None
    assert nvidia.note.startswith("no NVIDIA GPU: ")
    assert "mismatch" in nvidia.note


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        (None, (_A, _B)),
        ("", ()),
        ("0", (_A,)),
        ("1,0", (_B, _A)),
        (" 1 ", (_B,)),
        ("GPU-bbbb", (_B,)),
        ("GPU-", ()),
        ("0,-1,1", (_A,)),
        ("2,0", ()),
        ("NoDevFiles", ()),
    ],
)
def test_gpus_are_those_that_cuda_shows(wanted: str | None, seen: tuple[Gpu, ...]) -> None:
    gpus, note = visible((_A, _B), wanted)
    assert gpus == seen
    assert (note is None) == (len(seen) == 2)


def test_intel_devices_are_found_when_their_nodes_are_there(tmp_path: Path) -> None:
    for node, vendor in {"drm/renderD128": "0x1002", "drm/renderD129": "0x8086", "accel/accel0": "0x8086"}.items():
        folder = tmp_path / "sys/class" / node / "device"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
    assert read_intel(tmp_path) == ("gpu", "npu")


def test_no_intel_device_is_found_when_the_gpu_is_of_another_vendor(tmp_path: Path) -> None:
    folder = tmp_path / "sys/class/drm/renderD128/device"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text("0x10de\n")
    assert read_intel(tmp_path) == ()
