"""Node.js and the JavaScript packages that Runoff pins: found here, and fetched into the user cache when asked for.

A set of packages is a folder of `runoff/web/packages` with a package.json and a lock that holds the integrity of every
file; npm fetches it from the registry that it is configured for, and no script of a package runs. Knows no model.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from runoff import settings
from runoff.errors import BackendNotInstalled

WEB = Path(__file__).resolve().parents[1] / "web"
"""The JavaScript of Runoff: what the pages and the processes of Node run."""
_OLDEST_NODE = 18
_LOCK = "package-lock.json"
_NODE_HINT = "install Node.js 18 or newer, and have `node` and `npm` on PATH"


def find_node() -> Path:
    """The `node` program.

    Raises:
        BackendNotInstalled: there is none on PATH, or it is too old.
    """
    found = shutil.which("node")
    if found is None:
        raise BackendNotInstalled("Node.js is not installed: there is no `node` on PATH", hint=_NODE_HINT)
    version = node_version(found)
    if int(version.split(".")[0]) < _OLDEST_NODE:
        raise BackendNotInstalled(f"Node.js {version} is too old", hint=_NODE_HINT)
    return Path(found)


@cache
def node_version(program: str) -> str:
    """The version of a `node` program, such as `20.20.2`; it is started once.

    Raises:
        BackendNotInstalled: it does not start.
    """
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BackendNotInstalled(f"{program} does not start: {error}", hint=_NODE_HINT) from error
    found = re.fullmatch(r"v(\d+\.\d+\.\d+\S*)", done.stdout.strip())
    if found is None:
        raise BackendNotInstalled(f"{program} says {done.stdout[:80]!r}, which is no version", hint=_NODE_HINT)
    return found[1]


def pinned_version(package_set: str, package: str) -> str:
    """The version of a package that the lock of a set holds."""
    lock = json.loads((WEB / "packages" / package_set / _LOCK).read_bytes())
    return str(lock["packages"][f"node_modules/{package}"]["version"])


def packages_folder(package_set: str) -> Path:
    """Where the packages of a set lie in the user cache once they were fetched: a `node_modules` of its own.

    The folder is named after the digest of the lock, so that another version of Runoff has another one.
    """
    digest = hashlib.sha256((WEB / "packages" / package_set / _LOCK).read_bytes()).hexdigest()
    return settings.cache_folder() / "javascript" / f"{package_set}-{digest[:16]}" / "node_modules"


def installed_packages(package_set: str) -> Path:
    """The packages of a set; see `packages_folder`.

    Raises:
        BackendNotInstalled: they were not fetched yet. Nothing is fetched here.
    """
    folder = packages_folder(package_set)
    if not folder.is_dir():
        format_id = "web" if package_set == "ort-web" else package_set
        raise BackendNotInstalled(
            f"the JavaScript packages of {package_set!r} are not in the cache",
            hint=f"runoff export MODEL --to {format_id} --force fetches them",
        )
    return folder


def install_packages(package_set: str) -> Path:
    """The packages of a set, fetched by npm where they are not in the cache. All or nothing.

    Raises:
        BackendNotInstalled: Node.js or npm is missing, downloads are forbidden, or npm failed.
    """
    folder = packages_folder(package_set)
    if folder.is_dir():
        return folder
    find_node()
    npm = shutil.which("npm")
    if npm is None:
        raise BackendNotInstalled("npm is not installed: there is no `npm` on PATH", hint=_NODE_HINT)
    if settings.offline():
        raise BackendNotInstalled(
            f"the JavaScript packages of {package_set!r} are not in the cache, and RUNOFF_OFFLINE forbids downloads",
            hint="fetch them once without RUNOFF_OFFLINE, or copy the cache from a machine that has them",
        )
    aside = folder.parent.with_name(f"{folder.parent.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        # The lock names packages by integrity only, so that npm takes them from whatever registry it is set up for.
        shutil.copytree(WEB / "packages" / package_set, aside)
        _fetch(npm, aside)
        if not folder.is_dir():
            aside.replace(folder.parent)
    except OSError as error:
        if not folder.is_dir():
            raise BackendNotInstalled(f"cannot write the packages to {folder.parent}: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _fetch(npm: str, folder: Path) -> None:
    command = [npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=settings.worker_timeout_s(), check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BackendNotInstalled(f"npm did not end within {error.timeout:g} s", hint="check the network") from error
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        why = said[0] if said else f"exit code {done.returncode}"
        raise BackendNotInstalled(f"npm cannot fetch the packages: {why}", hint="check the network and npm's registry")
