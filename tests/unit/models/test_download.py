"""Downloads against a real server with the faults of a network."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.web import serve
from runoff.errors import DigestMismatch, ModelNotFound, SourceError
from runoff.models import cache
from runoff.models.download import DownloadOptions, download, file_name, shown_url

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RUNOFF_DOWNLOAD_TIMEOUT_S", "2")
    with serve() as served:
        served.files["/m.onnx"] = CONTENT
        yield served


def _options(**changes):
    return DownloadOptions(**{"backoff_s": 0.01, **changes})


def _blobs() -> list[str]:
    return sorted(path.name for path in cache.subfolder("blobs").iterdir())


def test_file_arrives_under_its_own_name(site):
    path = download(f"{site.url}/m.onnx?token=1", _options())
    assert path.name == "m.onnx"
    assert path.read_bytes() == CONTENT


def test_nothing_is_asked_again_when_the_digest_is_known(site):
    for _ in range(2):
        assert download(f"{site.url}/m.onnx", _options(sha256=DIGEST)).read_bytes() == CONTENT
    assert len(site.requests) == 1


def test_copy_is_revalidated_when_no_digest_is_known(site):
    for _ in range(2):
        download(f"{site.url}/m.onnx", _options())
    first, second = site.asked("/m.onnx")
    assert "If-None-Match" not in first
    assert "If-None-Match" in second
    site.files["/m.onnx"] = b"new content"
    assert download(f"{site.url}/m.onnx", _options()).read_bytes() == b"new content"


def test_file_is_fetched_anew_when_the_server_has_no_validators(site):
    site.validators = False
    download(f"{site.url}/m.onnx", _options())
    site.files["/m.onnx"] = CONTENT[::-1]
    assert download(f"{site.url}/m.onnx", _options()).read_bytes() == CONTENT[::-1]


def test_transfer_goes_on_where_it_was_cut(site):
    site.cuts["/m.onnx"] = [300_000, 300_000]
    seen = []
    options = _options(on_progress=lambda url, have, total: seen.append((url, have, total)))
    assert download(f"{site.url}/m.onnx", options).read_bytes() == CONTENT
    assert [headers.get("Range") for headers in site.asked("/m.onnx")] == [None, "bytes=300000-", "bytes=600000-"]
    assert seen[-1] == (f"{site.url}/m.onnx", len(CONTENT), len(CONTENT))


def test_a_later_call_goes_on_when_the_earlier_one_gave_up(site):
    # The first connection gains bytes, the second none.
    site.cuts["/m.onnx"] = [400_000, 0]
    with pytest.raises(SourceError, match="attempts in a row") as caught:
        download(f"{site.url}/m.onnx", _options(attempts=1))
    assert "goes on from there" in caught.value.hint
    assert _blobs() == []
    assert download(f"{site.url}/m.onnx", _options()).read_bytes() == CONTENT
    assert site.asked("/m.onnx")[-1]["Range"] == "bytes=400000-"


def test_transfer_starts_over_when_the_file_changed_meanwhile(site):
    site.cuts["/m.onnx"] = [300_000, 0]
    with pytest.raises(SourceError):
        download(f"{site.url}/m.onnx", _options(attempts=1))
    site.files["/m.onnx"] = CONTENT[::-1]
    assert download(f"{site.url}/m.onnx", _options()).read_bytes() == CONTENT[::-1]


def test_transfer_starts_over_when_the_server_knows_no_ranges(site):
    site.ranges = False
    site.cuts["/m.onnx"] = [300_000]
    assert download(f"{site.url}/m.onnx", _options()).read_bytes() == CONTENT


def test_mixed_parts_are_fetched_once_more_in_one_piece_when_only_the_digest_tells(site):
    site.validators = False
    site.files["/m.onnx"] = CONTENT[::-1]
    site.cuts["/m.onnx"] = [300_000, 0]
    with pytest.raises(SourceError):
        download(f"{site.url}/m.onnx", _options(attempts=1, sha256=DIGEST))
    site.files["/m.onnx"] = CONTENT
    assert download(f"{site.url}/m.onnx", _options(sha256=DIGEST)).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"!", b"<html>login</html>"])
def test_corrupted_bytes_are_refused_and_nothing_is_kept(site, content):
    site.files["/m.onnx"] = content
    with pytest.raises(DigestMismatch, match="not the expected ones"):
        download(f"{site.url}/m.onnx", _options(sha256=DIGEST))
    assert _blobs() == []
    assert not list(cache.subfolder("downloads").glob("*.part"))


def test_damaged_copy_is_fetched_again(site):
    download(f"{site.url}/m.onnx", _options(sha256=DIGEST))
    (cache.subfolder("blobs") / DIGEST).write_bytes(b"rotten")
    assert download(f"{site.url}/m.onnx", _options(sha256=DIGEST)).read_bytes() == CONTENT


def test_missing_file_is_not_found_at_once(site):
    with pytest.raises(ModelNotFound, match="404"):
        download(f"{site.url}/none.onnx", _options())
    assert len(site.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_refusal_is_an_error_with_a_hint(site, status):
    site.statuses["/m.onnx"] = [status]
    with pytest.raises(SourceError, match=str(status)) as caught:
        download(f"{site.url}/m.onnx", _options())
    assert "login" in caught.value.hint


def test_busy_server_is_asked_again(site):
    site.statuses["/m.onnx"] = [503, 429, 500]
    assert download(f"{site.url}/m.onnx", _options()).read_bytes() == CONTENT


def test_redirect_is_followed(site):
    site.redirects["/latest.onnx"] = "/m.onnx"
    assert download(f"{site.url}/latest.onnx", _options()).read_bytes() == CONTENT


def test_redirect_is_refused_when_it_leads_to_a_local_file(site):
    site.redirects["/latest.onnx"] = "file:///etc/passwd"
    with pytest.raises(SourceError):
        download(f"{site.url}/latest.onnx", _options(attempts=1))


def test_closed_port_is_a_source_error(site):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(SourceError, match=r"refused \(2 attempts"):
        download(f"http://127.0.0.1:{port}/m.onnx", _options(attempts=2))


def test_silent_server_is_given_up(site, monkeypatch):
    monkeypatch.setenv("RUNOFF_DOWNLOAD_TIMEOUT_S", "0.2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/m.onnx"
        with pytest.raises(SourceError, match=r"timed out|no byte"):
            download(url, _options(attempts=1))


def test_offline_uses_the_cache_and_never_the_network(site):
    with pytest.raises(SourceError, match="offline"):
        download(f"{site.url}/m.onnx", _options(offline=True))
    download(f"{site.url}/m.onnx", _options())
    count = len(site.requests)
    assert download(f"{site.url}/m.onnx", _options(offline=True)).read_bytes() == CONTENT
    with pytest.raises(SourceError, match="offline"):
        download(f"{site.url}/m.onnx", _options(offline=True, sha256="0" * 64))
    assert len(site.requests) == count


def test_one_transfer_is_enough_when_two_processes_ask_at_once(site):
    code = (
        "import sys; from runoff.models.download import *; print(download(sys.argv[1], DownloadOptions(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, f"{site.url}/m.onnx", DIGEST]
    asking = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate(timeout=60)[0] for process in asking}
    assert len(answers) == 1
    assert Path(answers.pop().strip()).read_bytes() == CONTENT
    assert len(site.asked("/m.onnx")) == 1


def test_full_disk_is_an_error_and_leaves_nothing(site, tmp_path):
    code = """
import resource, sys
from runoff.errors import ModelError
from runoff.models.download import *
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    download(sys.argv[1], DownloadOptions())
except ModelError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, f"{site.url}/m.onnx"], stdout=subprocess.PIPE, text=True, check=True
    )
    assert "File too large" in done.stdout
    assert "runoff cache prune" in done.stdout
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size]


def test_what_is_shown_of_a_url_holds_no_secret():
    assert shown_url("https://me:pass@host/a/m.onnx?sig=1#sha256=2") == "https://host/a/m.onnx"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/a/m.onnx?x=/y", "m.onnx"),
        ("https://h/a/..%2f..%2fetc%2fpasswd", "passwd"),
        ("https://h/%2e%2e", "download"),
        ("https://h/", "download"),
        ("https://h/a b;c.onnx", "a_b_c.onnx"),
        ("https://h/.hidden.onnx", "hidden.onnx"),
    ],
)
def test_file_name_is_plain_whatever_the_url(url, name):
    assert file_name(url) == name
