from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.plugin_site import plugged_in


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The fake backend installed, here and in the processes that a race starts; and a cache of its own."""
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    with plugged_in(tmp_path / "site"):
        yield
