"""The processor and the memory of this machine, and how much of them this process may use.

Linux is read from /proc and /sys below a root, so that a recorded tree reads like a machine; macOS from the output of
`sysctl`; Windows through its API. Knows no GPU (see accelerators.py) and no library.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from runoff.environment.cgroup import Limits, read_limits, read_text

_SYSCTL_TIMEOUT_S = 5.0

_LINUX_FLAGS = {
    "sse4_2": "sse4_2",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_tile": "amx_tile",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "amx_fp16": "amx_fp16",
    "neon": "neon",
    "asimd": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}
"""Flags of /proc/cpuinfo to our words: the features by which runtimes pick kernels, in the order that we list them."""

_MACOS_FLAGS = {
    "hw.optional.sse4_2": "sse4_2",
    "hw.optional.avx1_0": "avx",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.fma": "fma",
    "hw.optional.f16c": "f16c",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512bw": "avx512bw",
    "hw.optional.avx512vl": "avx512vl",
    "hw.optional.neon": "neon",
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.arm.FEAT_FP16": "fp16",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
}

_WINDOWS_FLAGS = {38: "sse4_2", 39: "avx", 40: "avx2", 41: "avx512f", 19: "neon", 43: "dotprod"}
"""PF_* numbers of IsProcessorFeaturePresent, from winnt.h; Windows does not tell of VNNI, BF16 or AMX."""

_ARM_CORES = {
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
}
"""ARM kernels give numbers, not names: (implementer, part) of processors that models run on."""

_ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


class OperatingSystem(msgspec.Struct, frozen=True):
    """The operating system: `name` is Linux, Darwin or Windows; `arch` is x86_64, aarch64, ..."""

    name: str
    release: str
    arch: str


class Cpu(msgspec.Struct, frozen=True):
    """The processor.

    Attributes:
        isa: the instruction-set features by which runtimes pick kernels.
        logical_cores: hardware threads of the machine.
        physical_cores: cores of the machine.
        usable_cores: hardware threads that this process may keep busy: its affinity, or its quota when that is smaller.
            A quota of a fraction counts as the cores below it, since a thread above it stops the others.
        quota_cores: the CPU quota of the control group, or None.
    """

    model: str
    isa: tuple[str, ...]
    logical_cores: int
    physical_cores: int
    usable_cores: int
    quota_cores: float | None = None


class Memory(msgspec.Struct, frozen=True):
    """Main memory: all of it, what is free for new work, and the limit of the control group where one is below all."""

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None = None

    @property
    def usable_bytes(self) -> int:
        """What this process may use at most."""
        return self.total_bytes if self.limit_bytes is None else self.limit_bytes


def read_operating_system() -> OperatingSystem:
    """The operating system and the architecture."""
    machine = platform.machine().lower()
    return OperatingSystem(platform.system(), platform.release(), _ARCHITECTURES.get(machine, machine))


def read_cpu() -> Cpu:
    """The processor of this machine."""
    system = platform.system()
    if system == "Linux":
        root = Path("/")
        return linux_cpu(root, _linux_affinity(), read_limits(root))
    if system == "Darwin":
        return macos_cpu(_sysctl(["machdep.cpu.brand_string", "hw.logicalcpu", "hw.physicalcpu", *_MACOS_FLAGS]))
    return _other_cpu()


def read_memory() -> Memory:
    """The memory of this machine."""
    if platform.system() == "Linux":
        root = Path("/")
        return linux_memory(root, read_limits(root))
    import psutil

    memory = psutil.virtual_memory()
    return Memory(memory.total, memory.available)


def linux_cpu(root: Path, affinity: Collection[int], limits: Limits) -> Cpu:
    """The processor by /proc/cpuinfo and /sys/devices/system/cpu below `root`.

    Args:
        affinity: numbers of the hardware threads that this process may run on.
        limits: what its control groups allow.
    """
    processors = _processors(read_text(root / "proc/cpuinfo"))
    first = processors[0] if processors else {}
    flags = (first.get("flags") or first.get("Features") or "").split()
    num_logical = max(len(processors), 1)
    return Cpu(
        model=_linux_model(processors),
        isa=_ordered(_LINUX_FLAGS[flag] for flag in flags if flag in _LINUX_FLAGS),
        logical_cores=num_logical,
        physical_cores=_linux_physical_cores(root, processors) or num_logical,
        usable_cores=_usable(len(affinity), limits.quota_cores),
        quota_cores=limits.quota_cores,
    )


def linux_memory(root: Path, limits: Limits) -> Memory:
    """The memory by /proc/meminfo below `root`."""
    sizes_kib: dict[str, int] = {}
    for line in read_text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        number = value.split()
        if number and number[0].isdigit():
            sizes_kib[name] = int(number[0])
    total_bytes = sizes_kib.get("MemTotal", 0) * 1024
    available_bytes = sizes_kib.get("MemAvailable", sizes_kib.get("MemFree", 0)) * 1024
    limit = limits.memory_bytes
    if limit is None or limit >= total_bytes:
        return Memory(total_bytes, available_bytes)
    return Memory(total_bytes, min(available_bytes, limit), limit)


def macos_cpu(sysctl: Mapping[str, str]) -> Cpu:
    """The processor by names and values of `sysctl`; macOS has neither affinity nor quotas."""
    num_logical = int(sysctl.get("hw.logicalcpu") or os.cpu_count() or 1)
    return Cpu(
        model=sysctl.get("machdep.cpu.brand_string", "unknown"),
        isa=_ordered(word for name, word in _MACOS_FLAGS.items() if sysctl.get(name) == "1"),
        logical_cores=num_logical,
        physical_cores=int(sysctl.get("hw.physicalcpu") or num_logical),
        usable_cores=num_logical,
    )


def parse_sysctl(text: str) -> dict[str, str]:
    """The `name: value` lines that `sysctl` prints."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs if value.strip()}


def _linux_affinity() -> Collection[int]:
    affinity: Collection[int] = ()
    if sys.platform == "linux":
        affinity = os.sched_getaffinity(0)
    return affinity


def _usable(num_allowed: int, quota_cores: float | None) -> int:
    allowed = num_allowed if quota_cores is None else min(num_allowed, int(quota_cores))
    return max(allowed, 1)


def _ordered(features: Iterable[str]) -> tuple[str, ...]:
    present = set(features)
    return tuple(word for word in dict.fromkeys(_LINUX_FLAGS.values()) if word in present)


def _processors(cpuinfo: str) -> list[dict[str, str]]:
    """The blocks of /proc/cpuinfo, one for each hardware thread."""
    processors: list[dict[str, str]] = []
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "processor":
            processors.append({})
        if processors:
            processors[-1][name.strip()] = value.strip()
    return processors


def _linux_model(processors: list[dict[str, str]]) -> str:
    names: list[str] = []
    for processor in processors:
        implementer, part = processor.get("CPU implementer"), processor.get("CPU part")
        if processor.get("model name"):
            names.append(processor["model name"])
        elif implementer and part:
            names.append(_ARM_CORES.get((implementer, part), f"ARM implementer {implementer} part {part}"))
    return " + ".join(dict.fromkeys(names)) or "unknown"


def _linux_physical_cores(root: Path, processors: list[dict[str, str]]) -> int:
    if processors and all("core id" in processor for processor in processors):
        return len({(processor.get("physical id"), processor["core id"]) for processor in processors})
    # ARM kernels do not number the cores in cpuinfo; sysfs lists the hardware threads that share one.
    folder = root / "sys/devices/system/cpu"
    siblings = [
        read_text(folder / f"cpu{processor['processor']}/topology/thread_siblings_list").strip()
        for processor in processors
    ]
    return len(set(siblings)) if all(siblings) else 0


def _sysctl(names: list[str]) -> dict[str, str]:
    """Values by name. Names that this Mac does not know are reported on standard error only, and left out."""
    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", *names], capture_output=True, text=True, timeout=_SYSCTL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_sysctl(done.stdout)


def _other_cpu() -> Cpu:
    import psutil

    num_logical = os.cpu_count() or 1
    process = psutil.Process()
    return Cpu(
        model=_windows_model() or platform.processor() or "unknown",
        isa=_windows_isa(),
        logical_cores=num_logical,
        physical_cores=psutil.cpu_count(logical=False) or num_logical,
        usable_cores=len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else num_logical,
    )


def _windows_model() -> str:
    model = ""
    if sys.platform == "win32":
        import winreg

        with (
            contextlib.suppress(OSError),
            winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key,
        ):
            model = str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    return model


def _windows_isa() -> tuple[str, ...]:
    isa: tuple[str, ...] = ()
    if sys.platform == "win32":
        import ctypes

        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        isa = _ordered(word for number, word in _WINDOWS_FLAGS.items() if present(number))
    return isa
