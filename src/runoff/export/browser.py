"""A page in headless Chromium: served from this machine, opened in check mode, its outputs taken from what it sends.

Knows no model: a folder with an `index.html` in it goes in, the outputs that its page computed come out. Nothing but
the page's own server can be reached from it. Runs in the export worker, whose limits of time and memory hold.
"""

from __future__ import annotations

import functools
import http.server
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil

from runoff.backends.node import decode_frame
from runoff.errors import ExportError
from runoff.models.arrays import Array

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    "--headless",
    "--disable-quic",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-default-browser-check",
    # Whatever the page asks for by name does not resolve; it is served by its address.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_NO_GPU = ("--disable-gpu",)
_TYPES = {".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm", ".json": "application/json"}
_MAX_RESULT_BYTES = 1 << 30
_STEP_S = 0.2


class Browsed(msgspec.Struct, frozen=True):
    """What a page answered.

    Attributes:
        browser: name and version of the program.
        outputs: by name.
    """

    browser: str
    outputs: dict[str, Array]


def find_browser() -> str | None:
    """The program of a Chromium or Chrome on PATH, or None."""
    return next((found for name in _PROGRAMS if (found := shutil.which(name))), None)


def browser_version(program: str) -> str | None:
    """What a browser calls itself, such as `Chromium 150.0.7871.100`; None where it does not start."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return " ".join(done.stdout.split()[:2]) or None


def run_in_browser(
    program: str, folder: Path, provider: str, timeout_s: float, flags: Sequence[str] = _NO_GPU
) -> Browsed:
    """Open a page and let it compute its sample.

    Args:
        program: see `find_browser`.
        folder: with the `index.html`.
        provider: what it computes on, one of its `page.json`.
        timeout_s: until the outputs must be there.
        flags: further ones of the program; the usual one leaves a GPU alone.

    Raises:
        ExportError: the browser did not start, the page reported an error, or nothing came in time.
    """
    version = browser_version(program)
    if version is None:
        raise ExportError(f"{program} does not start")
    with _serve(folder) as server:
        query = urllib.parse.urlencode({"check": server.token, "provider": provider})
        with _browse([program, *flags], f"http://127.0.0.1:{server.server_port}/index.html?{query}") as process:
            waited = 0.0
            while not server.arrived.wait(_STEP_S):
                waited += _STEP_S
                if process.poll() is not None:
                    raise ExportError(f"{version} ended with code {process.returncode} before the page answered")
                if waited > timeout_s:
                    raise ExportError(f"the page gave no answer in {version} within {timeout_s:g} s")
    header, outputs = decode_frame(server.result)
    if header.error is not None:
        raise ExportError(f"the page failed in {version}: {header.error}")
    return Browsed(version, outputs)


class _Server(http.server.ThreadingHTTPServer):
    """Serves one folder on the loopback interface, and takes one result under a token that only its page knows."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.token = secrets.token_urlsafe(16)
        self.arrived = threading.Event()
        self.result = b""
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, **_TYPES}  # noqa: RUF012 - as in the base

    def do_POST(self) -> None:
        """Take the result."""
        server = self.server
        assert isinstance(server, _Server)  # noqa: S101 - the only server of this handler
        length = int(self.headers.get("Content-Length") or 0)
        given = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("check", [""])[0]
        if not secrets.compare_digest(given.encode(), server.token.encode()) or length > _MAX_RESULT_BYTES:
            self.send_error(403)
            return
        server.result = self.rfile.read(length)
        self.send_response(204)
        self.end_headers()
        server.arrived.set()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def _serve(folder: Path) -> Iterator[_Server]:
    server = _Server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _browse(command: Sequence[str], address: str) -> Iterator[subprocess.Popen[bytes]]:
    """A browser with a profile of its own; it and all that it started are gone in the end."""
    # Chromium's sandbox refuses to run for root; the page is one that was made here a moment ago.
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="runoff-browser-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [*command, *_FLAGS, *sandbox, f"--user-data-dir={profile}", address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        family = [*psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    process.kill()
    process.wait()
    for part in family:
        try:
            part.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=5)
