"""Which files of machine code were made on this machine, remembered in the user cache by their digest.

A package of machine code does whatever its author wrote into it as soon as it is opened, so one that came from
elsewhere is refused unless `RUNOFF_TRUST_COMPILED` says otherwise. Knows no format and no runtime.
"""

from __future__ import annotations

from pathlib import Path

from runoff import settings
from runoff.errors import RuntimeLoadError
from runoff.models.cache import subfolder
from runoff.models.folder import describe_file


def remember_compiled(path: Path) -> None:
    """Note that a file was compiled here."""
    (subfolder("compiled") / _digest(path)).touch()


def check_compiled(path: Path) -> None:
    """Refuse a file of machine code that was not compiled here.

    Raises:
        RuntimeLoadError: it was not, and the user does not trust such files.
    """
    if settings.trust_compiled() or (settings.cache_folder() / "compiled" / _digest(path)).is_file():
        return
    raise RuntimeLoadError(
        f"{path} is machine code that was not compiled on this machine: opening it would run whatever it holds",
        hint="make it again here with runoff export --force, or set RUNOFF_TRUST_COMPILED=1 if you trust its author",
    )


def _digest(path: Path) -> str:
    return describe_file(path.parent, path.name).sha256
