"""Changes that happen whole or not at all: the lock of a folder, files in the making, replacement by rename.

Knows directories only; what the files mean is the business of `folder.py` and `cache.py`. Whatever is in the
making carries its maker's host and process id in its name, so that the next writer can tell what was abandoned.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from runoff import settings
from runoff.errors import FolderBusy, ModelError

LOCK_NAME = ".runoff.lock"
_STAGING = ".staging-"
_HOST = re.sub(r"[^A-Za-z0-9.]", "_", platform.node()) or "localhost"


@contextmanager
def folder_lock(
    root: Path, on_wait: Callable[[], None] | None = None, *, timeout_s: float | None = None
) -> Iterator[None]:
    """Hold the folder's lock; re-entrant within a thread.

    Args:
        root: the folder; it must exist and be writable.
        on_wait: called once when another process holds the lock, before waiting.
        timeout_s: seconds to wait; `RUNOFF_LOCK_TIMEOUT_S` unless told.

    Raises:
        FolderBusy: still held after that time.
        ModelError: the folder cannot be written.
    """
    # Resolved, because the one lock object of a file is found by its path and a process may change its folder.
    lock = filelock.FileLock(Path(os.path.realpath(root)) / LOCK_NAME, is_singleton=True)
    timeout_s = settings.lock_timeout_s() if timeout_s is None else timeout_s
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if on_wait:
                on_wait()
            lock.acquire(timeout=timeout_s)
    except filelock.Timeout as error:
        raise FolderBusy(
            f"another process has held {root} for {timeout_s:g} s",
            hint="wait for it, or raise RUNOFF_LOCK_TIMEOUT_S",
        ) from error
    except OSError as error:
        raise ModelError(f"cannot lock {root}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def is_writable(root: Path) -> bool:
    """Whether files can be created in the folder; tried, because permission bits do not tell it all."""
    probe = name_aside(root)
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file: write aside, flush to disk, rename.

    Raises:
        ModelError: the disk is full, read-only, ...; the old file is untouched.
    """
    aside = name_aside(path.parent)
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise ModelError(f"cannot write {path}: {error.strerror}", hint="the old file is untouched") from error
    finally:
        with suppress(OSError):
            aside.unlink()


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """An empty folder inside `root` for files in the making; gone afterwards.

    Raises:
        ModelError: writing failed with an OSError: disk full, read-only, ...
    """
    path = name_aside(root)
    try:
        path.mkdir(parents=True)
        yield path
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise ModelError(
            f"cannot write in {root}: {error.strerror or error}{where}", hint="nothing was changed"
        ) from error
    finally:
        shutil.rmtree(path, ignore_errors=True)


def name_aside(root: Path) -> Path:
    """A name for something in the making, with its maker in it so that others can tell when it was abandoned."""
    return root / f"{_STAGING}{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def remove_stale(root: Path) -> None:
    """Delete what dead processes of this host were making in a folder."""
    for path in root.glob(f"{_STAGING}{_HOST}-*"):
        owner = path.name.split("-")[-2]
        if owner.isdigit() and not _is_running(int(owner)):
            remove(path)


def _is_running(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))


def remove(path: Path) -> None:
    """Delete a file, a link or a folder as far as possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()


def sync_tree(root: Path) -> None:
    """Flush every file and folder below a folder to disk, and the folder itself."""
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            sync_folder(path)
    sync_folder(root)


def sync_folder(root: Path) -> None:
    """Flush the names in a folder to disk, so that a rename outlives a power cut."""
    if os.name != "posix":
        return
    descriptor = os.open(root, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
