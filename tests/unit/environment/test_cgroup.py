"""Limits of control groups, read from trees in the form in which kernels and containers show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from runoff.environment.cgroup import Limits, read_limits

_V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
_V1 = (
    "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
    "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct ro,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {root} /sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)
_V1_UNLIMITED = "9223372036854771712\n"


def _lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_limits_are_those_of_the_own_group_when_version_2_is_mounted(tmp_path: Path) -> None:
    root = _lay(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user.slice/app.scope\n",
            "proc/self/mountinfo": _V2,
            "sys/fs/cgroup/user.slice/cpu.max": "max 100000\n",
            "sys/fs/cgroup/user.slice/memory.max": "max\n",
            "sys/fs/cgroup/user.slice/app.scope/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/user.slice/app.scope/memory.max": "2147483648\n",
        },
    )
    assert read_limits(root) == Limits(1.5, 2 << 30)


def test_limit_of_an_ancestor_counts_when_it_is_tighter(tmp_path: Path) -> None:
    root = _lay(
        tmp_path,
        {
            "proc/self/cgroup": "0::/kubepods/pod1/container\n",
            "proc/self/mountinfo": _V2,
            "sys/fs/cgroup/kubepods/cpu.max": "800000 100000\n",
            "sys/fs/cgroup/kubepods/pod1/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/kubepods/pod1/memory.max": "1073741824\n",
            "sys/fs/cgroup/kubepods/pod1/container/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/kubepods/pod1/container/memory.max": "4294967296\n",
        },
    )
    assert read_limits(root) == Limits(2.0, 1 << 30)


def test_limits_stand_at_the_mount_point_when_the_container_has_its_own_namespace(tmp_path: Path) -> None:
    root = _lay(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": _V2,
            "sys/fs/cgroup/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/memory.max": "1073741824\n",
        },
    )
    assert read_limits(root) == Limits(3.0, 1 << 30)


@pytest.mark.parametrize("group", ["/docker/0a1b", "/docker/0a1b/init", "/elsewhere", "/../other"])
def test_limits_are_found_when_version_1_shows_a_part_of_the_hierarchy(tmp_path: Path, group: str) -> None:
    root = _lay(
        tmp_path,
        {
            "proc/self/cgroup": f"11:memory:{group}\n4:cpu,cpuacct:{group}\n1:name=systemd:{group}\n0::/\n",
            "proc/self/mountinfo": _V1.format(root="/docker/0a1b"),
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n",
        },
    )
    assert read_limits(root) == Limits(0.5, 512 << 20)


def test_limit_of_an_ancestor_counts_when_version_1_is_mounted(tmp_path: Path) -> None:
    root = _lay(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/jobs/a\n1:cpu,cpuacct:/\n",
            "proc/self/mountinfo": _V1.format(root="/"),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": _V1_UNLIMITED,
            "sys/fs/cgroup/memory/jobs/memory.limit_in_bytes": "1073741824\n",
            "sys/fs/cgroup/memory/jobs/a/memory.limit_in_bytes": _V1_UNLIMITED,
        },
    )
    assert read_limits(root) == Limits(None, 1 << 30)


def test_there_is_no_limit_when_version_1_writes_its_largest_number(tmp_path: Path) -> None:
    root = _lay(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/\n1:cpu,cpuacct:/\n",
            "proc/self/mountinfo": _V1.format(root="/"),
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": _V1_UNLIMITED,
        },
    )
    assert read_limits(root) == Limits()


@pytest.mark.parametrize("text", ["", "max", "0", "12 zero", "nonsense", "100000 0"])
def test_there_is_no_quota_when_the_file_says_nothing_usable(tmp_path: Path, text: str) -> None:
    files = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": _V2, "sys/fs/cgroup/cpu.max": text}
    assert read_limits(_lay(tmp_path, files)) == Limits()


def test_there_is_no_limit_when_nothing_is_mounted(tmp_path: Path) -> None:
    assert read_limits(tmp_path) == Limits()
