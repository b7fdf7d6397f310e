"""The processor and the memory, read from trees in the form in which kernels show /proc and /sys."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from runoff.environment.cgroup import Limits
from runoff.environment.hardware import (
    Memory,
    linux_cpu,
    linux_memory,
    macos_cpu,
    parse_sysctl,
    read_cpu,
    read_memory,
)

_RECORDED = Path(__file__).parent / "cpuinfo"
_MEMINFO = (
    "MemTotal:       16384000 kB\nMemFree:          512000 kB\nMemAvailable:   12288000 kB\nHugePages_Total:       0\n"
)
_M2 = """machdep.cpu.brand_string: Apple M2
hw.logicalcpu: 8
hw.physicalcpu: 8
hw.optional.neon: 1
hw.optional.AdvSIMD: 1
hw.optional.arm.FEAT_FP16: 1
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_BF16: 1
hw.optional.arm.FEAT_SME: 0
"""


def _machine(root: Path, name: str) -> Path:
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text((_RECORDED / f"{name}.txt").read_text())
    return root


def test_amx_is_listed_when_the_processor_is_a_sapphire_rapids(tmp_path: Path) -> None:
    cpu = linux_cpu(_machine(tmp_path, "intel_xeon_8488c"), range(4), Limits())
    assert cpu.model == "Intel(R) Xeon(R) Platinum 8488C"
    assert cpu.isa == (
        *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl"),
        *("avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    )
    assert (cpu.logical_cores, cpu.physical_cores, cpu.usable_cores) == (4, 2, 4)


def test_bf16_without_amx_is_listed_when_the_processor_is_a_turin(tmp_path: Path) -> None:
    cpu = linux_cpu(_machine(tmp_path, "amd_epyc_turin"), range(2), Limits())
    assert cpu.model == "AMD EPYC"
    assert {"avx512_bf16", "avx512_vnni", "avx_vnni"} <= set(cpu.isa)
    assert not any(word.startswith("amx") for word in cpu.isa)
    assert (cpu.logical_cores, cpu.physical_cores) == (2, 2)


def test_arm_words_are_used_when_the_processor_is_a_neoverse(tmp_path: Path) -> None:
    cpu = linux_cpu(_machine(tmp_path, "arm_neoverse_v2"), range(4), Limits())
    assert cpu.model == "Neoverse-V2"
    assert cpu.isa == ("neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2")
    assert (cpu.logical_cores, cpu.physical_cores) == (4, 4)


def test_both_kinds_of_core_are_named_when_they_differ(tmp_path: Path) -> None:
    cpu = linux_cpu(_machine(tmp_path, "arm_big_little"), range(4), Limits())
    assert cpu.model == "Cortex-A53 + Cortex-A72"
    assert cpu.isa == ("neon",)


def test_physical_cores_come_from_sysfs_when_cpuinfo_has_no_core_ids(tmp_path: Path) -> None:
    root = _machine(tmp_path, "arm_neoverse_v2")
    for number, siblings in enumerate(["0-1", "0-1", "2-3", "2-3"]):
        folder = root / f"sys/devices/system/cpu/cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    assert linux_cpu(root, range(4), Limits()).physical_cores == 2


def test_processor_is_unknown_when_there_is_no_cpuinfo(tmp_path: Path) -> None:
    cpu = linux_cpu(tmp_path, [0], Limits())
    assert (cpu.model, cpu.isa, cpu.logical_cores, cpu.usable_cores) == ("unknown", (), 1, 1)


@pytest.mark.parametrize(
    ("affinity", "quota_cores", "usable"),
    [
        ({0, 1, 2, 3}, None, 4),
        ({2}, None, 1),
        ({0, 1, 2, 3}, 2.0, 2),
        ({0, 1, 2, 3}, 2.9, 2),
        ({0, 1, 2, 3}, 0.5, 1),
        ({0, 1}, 3.0, 2),
    ],
)
def test_usable_cores_are_the_fewest_of_affinity_and_quota(
    tmp_path: Path, affinity: set[int], quota_cores: float | None, usable: int
) -> None:
    cpu = linux_cpu(_machine(tmp_path, "intel_xeon_8488c"), affinity, Limits(quota_cores=quota_cores))
    assert (cpu.usable_cores, cpu.quota_cores) == (usable, quota_cores)


@pytest.mark.parametrize(
    ("limit_bytes", "expected"),
    [
        (None, Memory(16384000 * 1024, 12288000 * 1024)),
        (1 << 30, Memory(16384000 * 1024, 1 << 30, 1 << 30)),
        (14000000 * 1024, Memory(16384000 * 1024, 12288000 * 1024, 14000000 * 1024)),
        (1 << 40, Memory(16384000 * 1024, 12288000 * 1024)),
    ],
)
def test_memory_is_limited_when_the_limit_is_below_the_total(
    tmp_path: Path, limit_bytes: int | None, expected: Memory
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(_MEMINFO)
    memory = linux_memory(tmp_path, Limits(memory_bytes=limit_bytes))
    assert memory == expected
    assert memory.usable_bytes == (expected.limit_bytes or expected.total_bytes)


def test_processor_is_read_from_sysctl_when_the_machine_is_a_mac() -> None:
    cpu = macos_cpu(parse_sysctl(_M2))
    assert (cpu.model, cpu.physical_cores, cpu.usable_cores) == ("Apple M2", 8, 8)
    assert cpu.isa == ("neon", "fp16", "dotprod", "i8mm", "bf16")


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc of this machine")
def test_this_machine_is_read() -> None:
    cpu, memory = read_cpu(), read_memory()
    assert 1 <= cpu.usable_cores <= len(os.sched_getaffinity(0))
    assert 1 <= cpu.physical_cores <= cpu.logical_cores
    assert cpu.model != "unknown"
    assert 0 < memory.available_bytes <= memory.total_bytes
