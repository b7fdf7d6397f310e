"""The limits that Linux control groups set on this process: CPU quota and memory.

Both versions are read, since a machine may mount them side by side. A limit of any ancestor counts, so the search goes
from the process's own group up to the mount point. Knows nothing of affinity, and cpuset shows through that.

Source: the kernel's admin-guide/cgroup-v2 and cgroup-v1/memory, scheduler/sched-bwc, and proc(5) on mountinfo.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec

_UNLIMITED_BYTES = 1 << 60
"""Version 1 writes 'no limit' as the largest page-aligned number; no machine has an exabyte."""


class Limits(msgspec.Struct, frozen=True):
    """What control groups allow this process; None where they set no limit.

    Attributes:
        quota_cores: CPU time per time, such as 1.5 cores.
        memory_bytes: memory of the group, page cache included.
    """

    quota_cores: float | None = None
    memory_bytes: int | None = None


class _Mount(msgspec.Struct, frozen=True):
    """A mounted hierarchy: `group` of it is seen at `folder`; no controllers means version 2."""

    group: PurePosixPath
    folder: PurePosixPath
    controllers: frozenset[str]


def read_limits(root: Path) -> Limits:
    """Read the tightest limits on this process.

    Args:
        root: the folder that `proc` and `sys` lie in: `/`, or a recorded tree.
    """
    mounts = list(_mounts(read_text(root / "proc/self/mountinfo")))
    groups = dict(_groups(read_text(root / "proc/self/cgroup")))
    quotas: list[float] = []
    memories: list[int] = []
    for folder in _folders(root, mounts, groups, "cpu"):
        quotas += _quota_v2(folder) + _quota_v1(folder)
    for folder in _folders(root, mounts, groups, "memory"):
        memories += _bytes(folder / "memory.max") + _bytes(folder / "memory.limit_in_bytes")
    return Limits(min(quotas, default=None), min(memories, default=None))


def read_text(path: Path) -> str:
    """The text of a kernel file; empty when it is not there or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    for line in mountinfo.splitlines():
        mount, _, filesystem = line.partition(" - ")
        fields, kind = mount.split(), filesystem.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in {"cgroup", "cgroup2"}:
            continue
        controllers = frozenset(kind[2].split(",")) if kind[0] == "cgroup" else frozenset()
        yield _Mount(PurePosixPath(fields[3]), PurePosixPath(fields[4]), controllers)


def _groups(cgroup: str) -> Iterator[tuple[str, PurePosixPath]]:
    """The process's group for each version 1 controller, and for the empty name that of version 2."""
    for line in cgroup.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            yield controller, PurePosixPath(path)


def _folders(root: Path, mounts: list[_Mount], groups: dict[str, PurePosixPath], controller: str) -> Iterator[Path]:
    """The process's folder and all above it, in each hierarchy that can hold the controller."""
    for mount in mounts:
        name = controller if controller in mount.controllers else ""
        if (mount.controllers and not name) or name not in groups:
            continue
        top = root / mount.folder.relative_to("/")
        # A container may see a part of the hierarchy only, and its own path may lie outside of that part.
        seen = groups[name].is_relative_to(mount.group) and ".." not in groups[name].parts
        below = groups[name].relative_to(mount.group) if seen else PurePosixPath()
        yield top
        for step in [below, *below.parents]:
            if step.parts:
                yield top / step


def _quota_v2(folder: Path) -> list[float]:
    quota, _, period = read_text(folder / "cpu.max").strip().partition(" ")
    return [int(quota) / int(period)] if quota.isdigit() and period.isdigit() and int(period) else []


def _quota_v1(folder: Path) -> list[float]:
    quota = read_text(folder / "cpu.cfs_quota_us").strip()
    period = read_text(folder / "cpu.cfs_period_us").strip()
    return [int(quota) / int(period)] if quota.isdigit() and period.isdigit() and int(period) else []


def _bytes(path: Path) -> list[int]:
    text = read_text(path).strip()
    return [int(text)] if text.isdigit() and int(text) < _UNLIMITED_BYTES else []
