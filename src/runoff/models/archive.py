"""Models in archives: `.zip`, `.tar`, `.tar.gz` and `.tgz`, unpacked into the cache once for each content.

Nothing of an archive is trusted: names stay inside, links and devices are refused, and what comes out is counted
while it comes out, whatever the headers say.
"""

from __future__ import annotations

import gzip
import hashlib
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

from runoff.errors import FormatMismatch, ModelError, PathEscapes
from runoff.models import cache
from runoff.models.formats import SUFFIXES
from runoff.models.manifest import MANIFEST_NAME, check_path
from runoff.models.staging import staging

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
MAX_FILES = 10_000
_LEAST_LIMIT_BYTES = 1 << 30
_MAX_RATIO = 20
"""Weights hardly compress: an archive that grows more than this, and beyond a gigabyte, is a bomb."""
_MAX_READ_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20


def is_archive(path: Path) -> bool:
    """Whether a path is a file whose name ends as an archive's."""
    return path.name.lower().endswith(ENDINGS) and path.is_file()


def unpacked(path: Path) -> Path:
    """The model in an archive: a model folder, a Hugging Face folder, or the one bare model, in the cache.

    Raises:
        FormatMismatch: it is no archive, or damaged.
        PathEscapes: a name in it leads out of it.
        ModelError: links, too many files, too many bytes, none or several models in it; or the cache is full.
    """
    try:
        digest = cache.digest_of(path)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    root = cache.subfolder("provided") / hashlib.sha256(f"archive {digest}".encode()).hexdigest()[:16]
    if not cache.touch(root):
        with staging(root.parent) as aside:
            try:
                _unpack(path, aside)
                _model_in(aside, path)
                cache.replace_folder(aside, root)
            except OSError as error:
                raise cache.unwritable(error) from error
    return _model_in(root, path)


def _unpack(path: Path, into: Path) -> None:
    limit = _Limit(path, max(_LEAST_LIMIT_BYTES, path.stat().st_size * _MAX_RATIO))
    members = _zip_members if path.suffix.lower() == ".zip" else _tar_members
    try:
        for name, content in members(path):
            limit.count_file()
            check_path(name, str(path))
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                while chunk := content.read(_CHUNK_BYTES):
                    limit.count_bytes(len(chunk))
                    file.write(chunk)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _damaged(path, f"it has two entries for {Path(str(error.filename)).name}") from error
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, str(error)) from error
    except (NotImplementedError, UnicodeDecodeError, ValueError) as error:
        raise _damaged(path, f"written in a way that is not read here: {error}") from error


class _Limit:
    """Counts what comes out of an archive."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._files = 0
        self._bytes = 0

    def count_file(self) -> None:
        """One file more."""
        self._files += 1
        if self._files > MAX_FILES:
            raise ModelError(
                f"{self._path} holds more than {MAX_FILES} files", hint="unpack it yourself, if you trust it"
            )

    def count_bytes(self, number: int) -> None:
        """So many bytes more."""
        self._bytes += number
        if self._bytes > self._max_bytes:
            raise ModelError(
                f"{self._path} unpacks to more than {self._max_bytes >> 20} MiB, {_MAX_RATIO} times its size or more",
                hint="unpack it yourself, if you trust it",
            )


def _zip_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _no_file(path, info.filename)
            if info.flag_bits & 1:
                raise ModelError(f"{path} is encrypted", hint="unpack it yourself")
            if not info.is_dir():
                with archive.open(info) as content:
                    yield info.filename, content


def _tar_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if packed else raw
        with tarfile.open(fileobj=cast("IO[bytes]", _Bounded(stream)), mode="r:") as archive:
            for info in archive:
                if info.isdir():
                    continue
                content = archive.extractfile(info) if info.isreg() and not info.issparse() else None
                if content is None:
                    raise _no_file(path, info.name)
                yield info.name.removeprefix("./"), content


class _Bounded:
    """A stream that gives out a little at a time: a header of a tar file may ask for gigabytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        """At most 16 MiB."""
        if not 0 <= size <= _MAX_READ_BYTES:
            raise tarfile.ReadError("a header is too long")
        return self._stream.read(size)


def _model_in(folder: Path, archive: Path) -> Path:
    """The one model in an unpacked folder, below folders that hold nothing else."""
    if (folder / MANIFEST_NAME).is_file() or (folder / "config.json").is_file():
        return folder
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX")))
    models = [entry for entry in entries if entry.suffix.lower() in SUFFIXES]
    if len(models) == 1:
        return models[0]
    if not models and len(entries) == 1 and entries[0].is_dir():
        return _model_in(entries[0], archive)
    found = ", ".join(entry.name for entry in (models or entries)[:5]) or "nothing"
    raise ModelError(
        f"{archive} holds no single model: there is {found}", hint="put one model folder or one model file into it"
    )


def _no_file(path: Path, name: str) -> PathEscapes:
    return PathEscapes(
        f"{path} holds {name!r}, which is neither a file nor a folder",
        hint="pack it again with files in place of links",
    )


def _damaged(path: Path, why: str) -> FormatMismatch:
    return FormatMismatch(f"{path} is no readable archive: {why}", hint="fetch the file again")
