"""Files from http(s) URLs, by way of the cache: resumed, retried, verified; nothing broken is ever kept as whole.

Knows HTTP and the cache; knows nothing of models. A transfer that was cut stays in `downloads/` with the
validator that the server gave (ETag or Last-Modified), so that a later call goes on where it ended.

Source: RFC 9110, sections 13 (conditional requests) and 14 (ranges).
"""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Literal, TypeAlias

import msgspec

from runoff import settings
from runoff.errors import DigestMismatch, ModelError, ModelNotFound, SourceError
from runoff.models import cache
from runoff.models.staging import folder_lock, write_atomically

_CHUNK_BYTES = 1 << 17
_MAX_RETRY_AFTER_S = 30.0
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Told the URL as people may see it, the bytes that are here, and the total where the server says it."""


@dataclass(frozen=True, slots=True)
class DownloadOptions:
    """How to fetch a URL.

    Attributes:
        sha256: the digest that the file must have; a file with it in the cache is not fetched again.
        offline: use what the cache has, or refuse.
        attempts: connections in a row that may fail without a byte gained.
        backoff_s: seconds before the second attempt, doubled for each further one.
        on_progress: called for each chunk.
    """

    sha256: str | None = None
    offline: bool = False
    attempts: int = 4
    backoff_s: float = 0.5
    on_progress: Progress | None = None


class UrlRecord(msgspec.Struct, frozen=True):
    """What a URL answered with: the digest of the file, and the validators to ask whether it changed."""

    sha256: str
    etag: str | None = None
    last_modified: str | None = None


def download(url: str, options: DownloadOptions) -> Path:
    """Fetch a file through the cache and answer its path, whose name is the last part of the URL.

    Raises:
        ModelNotFound: the server has no such file.
        DigestMismatch: the file is not the one with the expected digest; nothing of it is kept.
        SourceError: no network, a refusal, or offline without a copy in the cache.
        ModelError: the cache cannot be written.
    """
    name = file_name(url)
    if options.sha256 and (found := cache.get_named(options.sha256, name)):
        return found
    key = hashlib.sha256(url.encode()).hexdigest()[:32]
    record_path = cache.subfolder("urls") / f"{key}.json"
    if options.offline:
        record = _read_record(record_path)
        if record and options.sha256 in (None, record.sha256) and (found := cache.get_named(record.sha256, name)):
            return found
        raise SourceError(
            f"offline: {shown_url(url)} is not in the cache", hint="unset RUNOFF_OFFLINE, or fetch the file elsewhere"
        )
    lock = cache.subfolder("downloads") / key
    lock.mkdir(exist_ok=True)
    with folder_lock(lock):
        # Another process may have fetched it while this one waited.
        if options.sha256 and (found := cache.get_named(options.sha256, name)):
            return found
        record = None if options.sha256 else _read_record(record_path)
        if record and cache.get(record.sha256) is None:
            record = None
        digest = _Transfer(url, lock.with_suffix(".part"), options, record).run(record_path)
    path = cache.get_named(digest, name)
    if path is None:
        raise SourceError(f"{shown_url(url)} was deleted from the cache as soon as it was fetched")
    return path


def file_name(url: str) -> str:
    """The last part of a URL's path as a plain file name."""
    last = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^A-Za-z0-9._+-]", "_", last).lstrip(".")
    return name[-128:] or "download"


def shown_url(url: str) -> str:
    """A URL as it may be printed and recorded: without credentials, query and fragment."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class _Retry(Exception):
    """This connection failed in a way that another one may not."""

    def __init__(self, why: str, after_s: float | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s


class _Transfer:
    """One file on its way into the cache; the caller holds the lock of its URL."""

    def __init__(self, url: str, part: Path, options: DownloadOptions, record: UrlRecord | None) -> None:
        self._url = url
        self._part = part
        self._validators = part.with_suffix(".json")
        self._options = options
        self._record = record
        self._resumed = False

    def run(self, record_path: Path) -> str:
        """Fetch, verify and store; answer the digest."""
        while True:
            answer = self._fetch()
            if answer == "unchanged" and self._record:
                return self._record.sha256
            try:
                digest = cache.put_file(self._part, self._options.sha256, move=True)
            except DigestMismatch as error:
                resumed, self._resumed = self._resumed, False
                self._forget()
                if resumed:
                    # The parts may have come from two versions of the file: once more, in one piece.
                    continue
                raise DigestMismatch(f"{shown_url(self._url)}: {error.message}", hint=error.hint) from error
            validators = _read_record(self._validators) or UrlRecord("")
            write_atomically(record_path, msgspec.json.encode(msgspec.structs.replace(validators, sha256=digest)))
            self._forget()
            return digest

    def _fetch(self) -> Literal["complete", "unchanged"]:
        """Connect until the file is whole."""
        failures = 0
        while True:
            before = self._have()
            try:
                return self._connect()
            except _Retry as error:
                failures = 0 if self._have() > before else failures + 1
                if failures >= self._options.attempts:
                    raise SourceError(
                        f"cannot download {shown_url(self._url)}: {error} ({failures} attempts in a row)",
                        hint="what was received is kept and the next call goes on from there"
                        if self._have()
                        else "check the address and the network",
                    ) from error
                wait_s = self._options.backoff_s * 2 ** max(0, failures - 1)
                time.sleep(wait_s if error.after_s is None else min(error.after_s, _MAX_RETRY_AFTER_S))

    def _connect(self) -> Literal["complete", "unchanged"]:
        try:
            with _opener().open(self._request(), timeout=settings.download_timeout_s()) as response:
                return self._receive(response)
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error)
        except urllib.error.URLError as error:
            raise self._unreachable(error.reason) from error
        except TimeoutError as error:
            raise _Retry(f"no byte for {settings.download_timeout_s():g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise _Retry(str(error) or type(error).__name__) from error

    def _request(self) -> urllib.request.Request:
        headers = {"User-Agent": "runoff", "Accept-Encoding": "identity"}
        have = self._have()
        known = _read_record(self._validators)
        # A weak validator says that the meaning is the same, not the bytes: no ranges may be joined on it.
        strong = known.etag if known and known.etag and not known.etag.startswith("W/") else None
        condition = strong or (known.last_modified if known else None)
        if have and (condition or self._options.sha256):
            headers["Range"] = f"bytes={have}-"
            if condition:
                headers["If-Range"] = condition
        elif self._record and self._record.etag:
            headers["If-None-Match"] = self._record.etag
        elif self._record and self._record.last_modified:
            headers["If-Modified-Since"] = self._record.last_modified
        return urllib.request.Request(self._url, headers=headers)

    def _receive(self, response: http.client.HTTPResponse) -> Literal["complete"]:
        headers = response.headers
        start, total = _extent(response.status, headers)
        if start and start != self._have():
            self._forget()
            raise _Retry("the server answered with another range than was asked for")
        self._resumed = start > 0
        validators = UrlRecord("", headers.get("ETag"), headers.get("Last-Modified"))
        write_atomically(self._validators, msgspec.json.encode(validators))
        have = self._write(response, start, total)
        if total is not None and have < total:
            raise _Retry(f"the connection ended after {have} of {total} bytes")
        return "complete"

    def _write(self, response: http.client.HTTPResponse, start: int, total: int | None) -> int:
        """Append the body to the part from `start`; answer the bytes that there are now."""
        have = start
        try:
            file = self._part.open("ab" if start else "wb")
        except OSError as error:
            raise self._disk_failed(error) from error
        with file:
            while chunk := response.read(_CHUNK_BYTES):
                try:
                    file.write(chunk)
                    file.flush()
                except OSError as error:
                    raise self._disk_failed(error) from error
                have += len(chunk)
                if self._options.on_progress:
                    self._options.on_progress(shown_url(self._url), have, total)
        return have

    def _refused(self, error: urllib.error.HTTPError) -> Literal["unchanged"]:
        """What a status that is no success means."""
        where = shown_url(self._url)
        if error.code == 304 and self._record:
            return "unchanged"
        if error.code == 416:
            self._forget()
            raise _Retry("the server refused to go on from where the last transfer ended") from error
        if error.code in _RETRY_STATUS:
            after = error.headers.get("Retry-After", "")
            raise _Retry(f"{error.code} {error.reason}", float(after) if after.isdigit() else None) from error
        if error.code in (404, 410):
            raise ModelNotFound(
                f"{where} does not exist: {error.code} {error.reason}", hint="check the address"
            ) from error
        hint = "the address may need a signed URL or a login" if error.code in (401, 403) else None
        raise SourceError(f"{where} answered {error.code} {error.reason}", hint=hint) from error

    def _unreachable(self, reason: str | BaseException) -> Exception:
        import ssl

        if isinstance(reason, ssl.SSLCertVerificationError):
            return SourceError(
                f"{shown_url(self._url)} has a certificate that cannot be trusted: {reason.verify_message}"
            )
        if isinstance(reason, str) and reason.startswith("unknown url type"):
            return SourceError(f"{shown_url(self._url)} leads to an address that is not http or https")
        return _Retry(getattr(reason, "strerror", None) or str(reason))

    def _disk_failed(self, error: OSError) -> ModelError:
        self._forget()
        return ModelError(
            f"cannot write {shown_url(self._url)} to the cache: {error.strerror}",
            hint="free some space with 'runoff cache prune', or name another place with RUNOFF_CACHE",
        )

    def _have(self) -> int:
        try:
            return self._part.stat().st_size
        except FileNotFoundError:
            return 0

    def _forget(self) -> None:
        for path in (self._part, self._validators):
            with suppress(FileNotFoundError):
                path.unlink()


def _extent(status: int, headers: HTTPMessage) -> tuple[int, int | None]:
    """Where in the file the body of an answer starts, and the size of the whole file where the server says it."""
    if status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
        if found is None:
            raise _Retry("the server sent a part of the file without saying which")
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """The request to follow with; see the base class."""
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise SourceError(f"{shown_url(req.full_url)} redirects to {shown_url(newurl)}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """An opener of http and https only: the default one would also open file: and ftp: after a redirect."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _read_record(path: Path) -> UrlRecord | None:
    """A stored record; None when there is none or it cannot be read, which costs one download."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=UrlRecord)
    except (OSError, msgspec.DecodeError):
        return None
