"""Every RUNOFF_* environment variable: name, type, default, unit. Read when asked for, never at import.

RUNOFF_CACHE            path    the user cache; default: runoff/ under XDG_CACHE_HOME or ~/.cache
RUNOFF_OFFLINE          bool    1 forbids every download; default 0
RUNOFF_LOCK_TIMEOUT_S   float   seconds to wait for another process's lock; default 600
RUNOFF_DOWNLOAD_TIMEOUT_S float seconds without a byte before a download is given up; default 30
RUNOFF_MODELS           path    a folder of model folders that `list_models` shows; default: none
RUNOFF_REGISTRY         path    the registry in which plain names of models are looked up; default: none
RUNOFF_WORKER_TIMEOUT_S float   seconds that a race worker or exporter may stay silent; default 600
RUNOFF_TRUST_COMPILED   bool    1 opens packages of machine code that were made elsewhere; default 0

CUDA_VISIBLE_DEVICES, which belongs to CUDA, is read here too, since it decides which GPUs there are.
"""

from __future__ import annotations

import os
from pathlib import Path

from runoff.errors import SettingInvalid

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"", "0", "false", "no", "off"}


def _read(name: str) -> str | None:
    value = os.environ.get(name)
    return value if value else None


def _seconds(name: str, default: float) -> float:
    text = _read(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise SettingInvalid(
            f"{name}={text!r} is not a positive number of seconds", hint=f"unset {name} or use e.g. {default:g}"
        )
    return value


def _flag(name: str) -> bool:
    text = (_read(name) or "").lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise SettingInvalid(f"{name}={text!r} is neither true nor false", hint="use 1 or 0")


def cache_folder() -> Path:
    """The folder of the user cache; it may not exist yet."""
    explicit = _read("RUNOFF_CACHE")
    if explicit:
        return Path(explicit).expanduser()
    base = _read("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "runoff"


def models_folder() -> Path | None:
    """The folder of model folders that `list_models` shows, or None."""
    text = _read("RUNOFF_MODELS")
    return Path(text).expanduser() if text else None


def registry_folder() -> Path | None:
    """The registry in which plain names of models are looked up, or None."""
    text = _read("RUNOFF_REGISTRY")
    return Path(text).expanduser() if text else None


def offline() -> bool:
    """Whether every download is forbidden."""
    return _flag("RUNOFF_OFFLINE")


def trust_compiled() -> bool:
    """Whether packages of machine code open although they were made on another machine."""
    return _flag("RUNOFF_TRUST_COMPILED")


def lock_timeout_s() -> float:
    """Seconds to wait for a lock that another process holds."""
    return _seconds("RUNOFF_LOCK_TIMEOUT_S", 600.0)


def download_timeout_s() -> float:
    """Seconds without a byte before a download is given up."""
    return _seconds("RUNOFF_DOWNLOAD_TIMEOUT_S", 30.0)


def worker_timeout_s() -> float:
    """Seconds that a race worker or an exporter may stay silent before it is stopped."""
    return _seconds("RUNOFF_WORKER_TIMEOUT_S", 600.0)


def visible_cuda_devices() -> str | None:
    """The value of CUDA_VISIBLE_DEVICES, or None when it is not set; an empty one hides every GPU."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def child_environment(**changes: str) -> dict[str, str]:
    """A copy of this process's environment with `changes`, for a child process."""
    return {**os.environ, **changes}
