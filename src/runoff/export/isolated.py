"""The caller's side of the export worker: one call at a time, every failure an error in words.

Knows what crosses the pipe; knows no step and no runtime.
"""

from __future__ import annotations

from typing import Any

import msgspec

from runoff.child import Child
from runoff.models.folder import Package

WORKER = "runoff.export.worker"


def worker(max_memory_bytes: int | None = None) -> Child:
    """Start a worker."""
    return Child(WORKER, max_memory_bytes=max_memory_bytes)


def plain(package: Package) -> dict[str, Any]:
    """A package as JSON can hold it."""
    return {
        "root": str(package.root),
        "entry": msgspec.to_builtins(package.entry),
        "signature": msgspec.to_builtins(package.signature),
    }
