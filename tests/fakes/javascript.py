"""The JavaScript packages for tests: fetched by npm once for the whole repository, and shared by its tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from meta.repository import ROOT
from runoff.environment import javascript
from runoff.errors import BackendNotInstalled
from runoff.export.browser import find_browser

_CACHE = ROOT / "build" / "javascript-cache"


def javascript_cache(package_set: str) -> Path:
    """A user cache with the packages of a set in it; skips the test where Node.js, npm or the network are missing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNOFF_CACHE", str(_CACHE))
        try:
            javascript.install_packages(package_set)
        except BackendNotInstalled as error:
            pytest.skip(f"no JavaScript here: {error.message}")
    return _CACHE


def browser() -> str:
    """Chromium; skips the test where there is none."""
    found = find_browser()
    if found is None:
        pytest.skip("no Chromium on PATH")
    return found


def node() -> str:
    """Node.js; skips the test where there is none."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("no Node.js on PATH")
    return found
