"""The caller's side of the export worker: one call at a time, every failure an error in words.

Knows what crosses the pipe; knows no step and no runtime.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from runoff.child import Child
from runoff.models.folder import Package

WORKER = "runoff.export.worker"


def worker(max_memory_bytes: int | None = None) -> Child:
    """Start a worker that finds the same modules as this process, such as the caller's own network classes."""
    path = os.pathsep.join(entry for entry in ("", *sys.path) if entry is not None)
    return Child(WORKER, max_memory_bytes=max_memory_bytes, environment={"PYTHONPATH": path})


def plain(package: Package) -> dict[str, Any]:
    """A package as JSON can hold it."""
    return {
        "root": str(package.root),
        "entry": msgspec.to_builtins(package.entry),
        "signature": msgspec.to_builtins(package.signature),
    }
