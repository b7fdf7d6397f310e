"""Installs the fake plug-in backend into a folder, as `pip install --target` would, for this process or others."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runoff import auto
from runoff.backends import table

MODULE = "runoff_fake_backend"
_METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"


def make_plugin_site(folder: Path) -> Path:
    """Write the plug-in's module and its metadata; a process with the folder on PYTHONPATH has the backend `fake`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).with_name("plugin_backend.py"), folder / f"{MODULE}.py")
    add_entry_point(folder, "fake", f"{MODULE}:ROW")
    return folder


def add_entry_point(folder: Path, name: str, value: str) -> None:
    """Write the metadata of a distribution `runoff-<name>` with one entry point in Runoff's group."""
    info = folder / f"runoff_{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(_METADATA.format(name=f"runoff-{name}"))
    (info / "entry_points.txt").write_text(f"[{table.ENTRY_POINTS}]\n{name} = {value}\n")


@contextmanager
def plugged_in(folder: Path) -> Iterator[Path]:
    """Hold the plug-in installed in this process and in those that it starts."""
    site = make_plugin_site(folder)
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(site), *(path for path in os.getenv("PYTHONPATH", "").split(os.pathsep) if path)]  # noqa: TID251
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.syspath_prepend(site)
        _forget()
        try:
            yield site
        finally:
            sys.modules.pop(MODULE, None)
            _forget()
    _forget()


def _forget() -> None:
    """What is installed has changed: the table of backends, and the environment that the front door looked at once."""
    table.forget_plugins()
    auto._environment.cache_clear()
