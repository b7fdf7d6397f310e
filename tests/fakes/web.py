"""A real HTTP server on the loopback, with the faults that a network has."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class Site:
    """What a server serves, and what it was asked.

    Attributes:
        files: content by path.
        cuts: for each path, after how many bytes each coming answer breaks off.
        statuses: for each path, the statuses that come before the file itself.
        redirects: for each path, where it moved.
        headers: for each path, headers of its own.
        missing_headers: headers of an answer that there is no such file.
        validators: whether answers carry an ETag.
        ranges: whether ranges are honoured.
        token: the bearer token without which nothing is there, as a private place answers.
        requests: method, path and headers of every request, in order.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    missing_headers: dict[str, str] = field(default_factory=dict)
    validators: bool = True
    ranges: bool = True
    token: str | None = None
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def asked(self, path: str) -> list[dict[str, str]]:
        """The headers of each GET for a path."""
        return [headers for method, asked, headers in self.requests if method == "GET" and asked == path]


def publish_folder(site: Site, prefix: str, root: Path) -> None:
    """Put every file of a folder on a site, below a path."""
    for path in root.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            site.files[f"{prefix}/{path.relative_to(root).as_posix()}"] = path.read_bytes()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        site = self.site
        site.requests.append((self.command, path, dict(self.headers)))
        if site.token is not None and self.headers.get("Authorization") != f"Bearer {site.token}":
            self._plain(401, site.missing_headers)
        elif site.statuses.get(path):
            self._plain(site.statuses[path].pop(0))
        elif path in site.redirects:
            self._plain(302, {"Location": site.redirects[path]})
        elif path not in site.files:
            self._plain(404, site.missing_headers)
        else:
            self._file(path, body=body)

    def _plain(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def _file(self, path: str, *, body: bool) -> None:
        site, content = self.site, self.site.files[path]
        etag = f'"{hashlib.sha256(content).hexdigest()[:40]}"'
        if site.validators and self.headers.get("If-None-Match") == etag:
            self._plain(304, {"ETag": etag})
            return
        start, wanted = 0, self.headers.get("Range")
        if wanted and site.ranges and self.headers.get("If-Range", etag) == etag:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= len(content):
                self._plain(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if site.validators:
            self.send_header("ETag", etag)
        for name, value in site.headers.get(path, {}).items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        cuts = site.cuts.get(path)
        if cuts:
            self.wfile.write(content[start : start + cuts.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(content[start:])


@contextmanager
def serve() -> Iterator[Site]:
    """A site on a free port of the loopback."""
    site = Site()
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
