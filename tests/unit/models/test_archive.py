"""Models in archives are unpacked safely, once, and what is no plain archive of one model is refused."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from fakes.model_files import make_folder, onnx_bytes, openvino_files, zip_bytes
from fakes.web import serve
from runoff.errors import FormatMismatch, ModelError, PathEscapes
from runoff.models import archive
from runoff.models.folder import read_folder
from runoff.models.sources import find_source


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _tar(files: dict[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as out:
        for name, content in files.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            out.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _folder_files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("prefix", ["", "tiny/", "a/b/"])
@pytest.mark.parametrize("name", ["m.zip", "m.tar.gz", "m.tgz", "m.tar"])
def test_model_folder_is_found_in_an_archive(tmp_path, cache, name, prefix):
    made = make_folder(tmp_path / "made")
    files = {f"{prefix}{path}": data for path, data in _folder_files(made.root).items()}
    packed = zip_bytes(files) if name.endswith("zip") else _tar(files, "w" if name.endswith(".tar") else "w:gz")
    found = find_source(_write(tmp_path / name, packed))
    assert found.path.is_relative_to(cache / "provided")
    folder = read_folder(found.path)
    assert folder.manifest == made.manifest
    folder.reference.verify()


@pytest.mark.parametrize(
    ("files", "main"),
    [
        ({"m.onnx": onnx_bytes(), "README.md": b"x"}, "m.onnx"),
        ({"net/m.xml": openvino_files()[0], "net/m.bin": openvino_files()[1]}, "m.xml"),
        ({"./m.onnx": onnx_bytes(), "__MACOSX/x": b"x", ".DS_Store": b"x"}, "m.onnx"),
    ],
)
def test_bare_model_is_found_in_an_archive(tmp_path, files, main):
    assert find_source(_write(tmp_path / "m.tar.gz", _tar(files))).path.name == main


def test_archive_is_unpacked_once_for_its_content(tmp_path, cache):
    path = _write(tmp_path / "m.zip", zip_bytes({"m.onnx": onnx_bytes()}))
    first = find_source(path).path
    stamp = first.stat().st_mtime_ns
    assert find_source(_write(tmp_path / "copy.zip", path.read_bytes())).path == first
    assert first.stat().st_mtime_ns == stamp
    assert len(list((cache / "provided").iterdir())) == 1


def test_archive_at_a_url_is_unpacked(tmp_path):
    with serve() as site:
        site.files["/m.zip"] = zip_bytes({"m.onnx": onnx_bytes()})
        found = find_source(f"{site.url}/m.zip")
    assert (found.kind, found.path.name) == ("url", "m.onnx")


def _link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def _zip_link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        info = zipfile.ZipInfo("m.onnx")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        out.writestr(info, "/etc/passwd")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("m.zip", zip_bytes({"../m.onnx": b"x"})),
        ("m.zip", zip_bytes({"/tmp/m.onnx": b"x"})),
        ("m.zip", zip_bytes({"a\\..\\m.onnx": b"x"})),
        ("m.zip", _zip_link()),
        ("m.tgz", _tar({"../m.onnx": b"x"})),
        ("m.tgz", _tar({"a/../../m.onnx": b"x"})),
        ("m.tgz", _tar({"l": _link("m.onnx", "/etc/passwd")})),
        ("m.tgz", _tar({"a": b"x", "l": _link("m.onnx", "a", tarfile.LNKTYPE)})),
        ("m.tgz", _tar({"d": _link("m.onnx", "", tarfile.CHRTYPE)})),
    ],
)
def test_archive_that_leads_out_or_links_is_refused_and_nothing_is_kept(tmp_path, cache, name, packed):
    with pytest.raises(PathEscapes):
        find_source(_write(tmp_path / name, packed))
    assert list((cache / "provided").iterdir()) == []
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("m.zip", b"text"),
        ("m.tgz", b"text"),
        ("m.zip", zip_bytes({"m.onnx": onnx_bytes() * 100})[:-300]),
        ("m.tgz", _tar({"m.onnx": bytes(range(256)) * 400})[:-50]),
        ("m.tar", _tar({"m.onnx": b"x" * 5000}, "w")[:2000]),
        ("m.tar", _tar({"m.onnx": b"x", "m.onnx/y": b"x"}, "w")),
    ],
)
def test_damaged_archive_is_refused_and_nothing_is_kept(tmp_path, cache, name, packed):
    with pytest.raises(FormatMismatch):
        find_source(_write(tmp_path / name, packed))
    assert list((cache / "provided").iterdir()) == []


def test_header_that_asks_for_gigabytes_is_refused(tmp_path):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 8 << 30
    with pytest.raises(FormatMismatch, match="header"):
        find_source(_write(tmp_path / "m.tar", header.tobuf() + b"\0" * 1024))


@pytest.mark.parametrize("name", ["m.zip", "m.tar.gz"])
def test_bomb_is_refused(tmp_path, cache, name, monkeypatch):
    monkeypatch.setattr(archive, "_LEAST_LIMIT_BYTES", 1 << 20)
    files = {"m.onnx": b"\0" * (8 << 20)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("m.onnx", files["m.onnx"])
    packed = buffer.getvalue() if name == "m.zip" else _tar(files)
    with pytest.raises(ModelError, match="unpacks to more than 1 MiB"):
        find_source(_write(tmp_path / name, packed))
    assert list((cache / "provided").iterdir()) == []


def test_archive_of_too_many_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_FILES", 10)
    with pytest.raises(ModelError, match="more than 10 files"):
        find_source(_write(tmp_path / "m.zip", zip_bytes({f"{i}.txt": b"" for i in range(11)})))


@pytest.mark.parametrize("files", [{}, {"a.onnx": b"x", "b.onnx": b"x"}, {"notes.txt": b"x"}])
def test_archive_without_one_model_is_refused(tmp_path, files):
    with pytest.raises(ModelError, match="no single model"):
        find_source(_write(tmp_path / "m.zip", zip_bytes(files)))
