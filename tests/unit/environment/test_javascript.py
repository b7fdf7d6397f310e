"""The JavaScript packages: pinned by integrity, fetched by npm when asked for, and never behind the user's back."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from fakes.javascript import javascript_cache, node
from runoff.environment import javascript
from runoff.errors import BackendNotInstalled

LOCKS = sorted((javascript.WEB / "packages").glob("*/package-lock.json"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.parent.name)
def test_lock_pins_each_package_by_integrity_and_names_no_registry(lock: Path) -> None:
    packages = json.loads(lock.read_text())["packages"]
    wanted = json.loads((lock.parent / "package.json").read_text())["dependencies"]
    assert packages[""]["dependencies"] == wanted
    assert {name: packages[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    for name, entry in packages.items():
        assert name == "" or entry["integrity"].startswith("sha512-"), name
    assert "://" not in lock.read_text()


def test_fetched_packages_are_those_of_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNOFF_CACHE", str(javascript_cache("tfjs")))
    folder = javascript.installed_packages("tfjs")
    found = json.loads((folder / "@tensorflow/tfjs-core/package.json").read_text())
    assert found["version"] == javascript.pinned_version("tfjs", "@tensorflow/tfjs-core")
    assert [path.name for path in folder.parent.parent.iterdir()].count(folder.parent.name) == 1


def test_nothing_is_fetched_when_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    node()
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RUNOFF_OFFLINE", "1")
    with pytest.raises(BackendNotInstalled, match="RUNOFF_OFFLINE") as caught:
        javascript.install_packages("ort-web")
    assert "without RUNOFF_OFFLINE" in (caught.value.hint or "")
    assert not (tmp_path / "cache").exists()


def test_what_was_not_fetched_is_named_with_the_command_when_opening(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BackendNotInstalled) as caught:
        javascript.installed_packages("ort-web")
    assert "--to web" in (caught.value.hint or "")


def test_missing_node_is_told_when_path_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BackendNotInstalled, match=r"Node\.js is not installed") as caught:
        javascript.install_packages("ort-web")
    assert "install Node.js" in (caught.value.hint or "")


def test_old_node_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "node"
    program.write_text("#!/bin/sh\necho v12.22.12\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.defpath}")
    with pytest.raises(BackendNotInstalled, match=r"12\.22\.12 is too old"):
        javascript.find_node()


def test_failed_fetch_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = Path(node()).parent
    (tmp_path / "bin").mkdir()
    npm = tmp_path / "bin" / "npm"
    npm.write_text("#!/bin/sh\nmkdir node_modules\necho 'npm error EINTEGRITY' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{place}{os.pathsep}{os.defpath}")
    assert shutil.which("npm") == str(npm)
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BackendNotInstalled, match="EINTEGRITY"):
        javascript.install_packages("ort-web")
    assert list((tmp_path / "cache" / "javascript").iterdir()) == []
