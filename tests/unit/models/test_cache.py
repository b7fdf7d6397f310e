"""The cache keeps what it was given, whole, whoever else works on it."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fakes.model_files import make_folder, package_of, unwritable
from runoff import settings
from runoff.errors import DigestMismatch, InputError, ModelError
from runoff.models import cache
from runoff.models.folder import add_package, folder_lock, is_writable, read_folder, staging
from runoff.models.upkeep import PrunePolicy, entries, prune, verify

CONTENT = b"some weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
_TESTS = str(Path(__file__).parents[2])


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _run(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=settings.child_environment(PYTHONPATH=_TESTS),
        stdout=subprocess.PIPE,
        text=True,
    )


def _age(path: Path, age_s: float) -> None:
    then = time.time() - age_s
    os.utime(path, (then, then))


def test_what_was_put_can_be_got(tmp_path):
    (tmp_path / "f").write_bytes(CONTENT)
    assert cache.put_file(tmp_path / "f") == cache.put_stream([CONTENT[:3], CONTENT[3:]]) == DIGEST
    assert cache.get(DIGEST).read_bytes() == CONTENT
    assert cache.get_named(DIGEST, "m.onnx").name == "m.onnx"
    assert (tmp_path / "f").exists()


def test_nothing_is_got_when_nothing_was_put():
    assert cache.get("0" * 64) is None
    assert cache.get_named("0" * 64, "m.onnx") is None


def test_nothing_is_kept_when_the_digest_is_another_one(root):
    with pytest.raises(DigestMismatch):
        cache.put_stream([b"other"], DIGEST)
    assert entries() == []
    assert [path.name for path in root.iterdir() if path.is_file()] in ([], [".runoff.lock"])


def test_nothing_is_kept_when_the_stream_breaks(root):
    def broken():
        yield CONTENT
        raise OSError(5, "Input/output error")

    with pytest.raises(ModelError, match="Input/output"):
        cache.put_stream(broken())
    assert entries() == []
    assert not list(root.glob(".staging*"))


def test_damaged_file_is_not_got_and_mended_by_the_next_put():
    cache.put_stream([CONTENT])
    named = cache.get_named(DIGEST, "m.onnx")
    named.write_bytes(b"rotten")
    assert cache.get(DIGEST) is None
    cache.put_stream([CONTENT])
    assert cache.get_named(DIGEST, "m.onnx").read_bytes() == CONTENT


def test_cache_error_names_the_setting_when_it_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError) as caught:
        cache.put_stream([CONTENT])
    assert "RUNOFF_CACHE" in caught.value.hint


def test_full_disk_is_an_error_and_leaves_nothing(root):
    code = """
import resource
from runoff.errors import ModelError
from runoff.models import cache
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    cache.put_stream([b"x" * 5000])
except ModelError as error:
    print(error)
"""
    output, _ = _run(code).communicate()
    assert "File too large" in output
    assert "cache prune" in output
    assert not [path for path in root.rglob("*") if path.is_file() and path.stat().st_size]


def test_working_copy_has_the_same_files_and_is_found_again(tmp_path):
    made = make_folder(tmp_path / "m")
    assert cache.find_working_copy(made) is None
    with unwritable(made.root):
        copy = cache.working_copy(made)
        assert is_writable(copy)
        assert read_folder(copy).manifest == made.manifest
        read_folder(copy).reference.verify()
        with staging(copy) as staged:
            add_package(copy, package_of("openvino-fp32", {"m.xml": b"x"}, staged), staged)
        assert cache.working_copy(made) == cache.find_working_copy(made) == copy
    assert read_folder(copy).package("openvino-fp32")
    assert read_folder(made.root).manifest == made.manifest
    assert cache.find_working_copy(make_folder(tmp_path / "other", b"other")) is None


def test_working_copy_is_refused_when_a_file_is_damaged(tmp_path):
    made = make_folder(tmp_path / "m")
    made.reference.main_file.write_bytes(b"rotten")
    with pytest.raises(DigestMismatch):
        cache.working_copy(made)
    assert entries() == []


def test_working_copy_is_made_anew_when_its_manifest_is_broken(tmp_path):
    made = make_folder(tmp_path / "m")
    copy = cache.working_copy(made)
    (copy / "runoff.json").write_bytes(b"{")
    assert read_folder(cache.working_copy(made)).manifest == made.manifest


def test_one_working_copy_stays_when_several_processes_make_it_at_once(tmp_path):
    make_folder(tmp_path / "m", b"x" * 300_000)
    code = """
import sys
from pathlib import Path
from runoff.models.cache import working_copy
from runoff.models.folder import read_folder
copy = working_copy(read_folder(Path(sys.argv[1])))
read_folder(copy).reference.verify()
print(copy)
"""
    makers = [_run(code, tmp_path / "m") for _ in range(4)]
    answers = [maker.communicate(timeout=60)[0] for maker in makers]
    assert all(answers)
    assert len(set(answers)) == 1
    assert len(entries()) == 1


def test_adopted_folder_is_named_by_the_start_of_the_digest(root):
    assert cache.adopted_folder("ab" * 32) == root / "models" / ("ab" * 8)


def test_entries_are_listed_with_size_and_use(tmp_path):
    cache.put_stream([CONTENT])
    copy = cache.working_copy(make_folder(tmp_path / "m"))
    _age(copy, 1000)
    (cache.subfolder("downloads") / "k.part").write_bytes(b"12345")
    _age(cache.subfolder("downloads") / "k.part", 2000)
    found = entries()
    assert [entry.kind for entry in found] == ["file", "model", "download"]
    assert found[0].bytes == len(CONTENT)
    assert found[2].bytes == 5
    assert abs(found[1].last_used_s - (time.time() - 1000)) < 60


def _three_files() -> list[str]:
    digests = []
    for age_s, content in ((3000, b"a" * 100), (2000, b"b" * 100), (1000, b"c" * 100)):
        digests.append(cache.put_stream([content]))
        _age(cache.subfolder("blobs") / digests[-1], age_s)
    return digests


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (PrunePolicy(max_bytes=250), {1, 2}),
        (PrunePolicy(max_bytes=0), set()),
        (PrunePolicy(max_bytes=1000), {0, 1, 2}),
        (PrunePolicy(older_than_s=1500), {2}),
        (PrunePolicy(older_than_s=2500, max_bytes=150), {2}),
        (PrunePolicy(everything=True), set()),
    ],
)
def test_prune_deletes_what_the_policy_says(policy, kept):
    digests = _three_files()
    deleted = prune(policy)
    expected = {digests[number] for number in kept}
    assert {entry.name for entry in entries()} == expected
    assert {entry.name for entry in deleted} == set(digests) - expected


def test_prune_spares_what_was_asked_for_lately():
    digests = _three_files()
    cache.get(digests[0])
    prune(PrunePolicy(max_bytes=100))
    assert [entry.name for entry in entries()] == [digests[0]]


def test_prune_deletes_what_is_only_remembered(root):
    for name in ("stamps", "urls"):
        for age_s, file in ((0, "new"), (10 * 86400, "old")):
            path = cache.subfolder(name) / file
            path.write_bytes(b"[]")
            os.utime(path, (time.time() - age_s,) * 2)
    prune(PrunePolicy(older_than_s=86400))
    assert sorted(
        path.name for path in root.rglob("*") if path.is_file() and path.parent.name in ("stamps", "urls")
    ) == [
        "new",
        "new",
    ]
    prune(PrunePolicy(everything=True))
    assert not any(path.is_file() for name in ("stamps", "urls") for path in (root / name).iterdir())


def test_prune_is_refused_when_it_names_nothing():
    with pytest.raises(InputError):
        prune(PrunePolicy())


def test_prune_spares_a_model_folder_that_someone_locks(tmp_path):
    copy = cache.working_copy(make_folder(tmp_path / "m"))
    code = "import sys; from pathlib import Path; from runoff.models.upkeep import *\n"
    code += "print(len(prune(PrunePolicy(everything=True))))"
    with folder_lock(copy):
        assert _run(code).communicate()[0].strip() == "0"
        assert copy.exists()
    assert _run(code).communicate()[0].strip() == "1"
    assert not copy.exists()


def test_verify_finds_and_deletes_what_is_damaged(tmp_path):
    good = cache.put_stream([b"good"])
    (cache.get(cache.put_stream([CONTENT]))).write_bytes(b"rotten")
    copy = cache.working_copy(make_folder(tmp_path / "m"))
    labels = copy / "labels.txt"
    labels.unlink()
    labels.write_bytes(b"x")
    problems = {finding.entry.name: finding.problem for finding in verify()}
    assert problems == {DIGEST: "its content is not that of its digest", copy.name: "labels.txt is truncated"}
    assert len(verify(delete=True)) == 2
    assert [entry.name for entry in entries()] == [good]
    assert verify() == []


def test_two_processes_may_put_and_prune_at_once():
    put = """
import random, sys
from runoff.models import cache
for number in range(120):
    content = bytes([number % 5]) * 20000
    digest = cache.put_stream([content])
    path = cache.get_named(digest, "m.onnx")
    assert path is None or path.name == "m.onnx"
"""
    drop = """
from runoff.models.upkeep import *
for number in range(120):
    prune(PrunePolicy(everything=number % 2 == 0, max_bytes=30000))
    entries()
"""
    workers = [_run(put), _run(put), _run(drop)]
    for worker in workers:
        worker.communicate(timeout=120)
        assert worker.returncode == 0
    assert verify() == []


def test_cache_is_whole_when_its_writers_are_killed(root, tmp_path):
    make_folder(tmp_path / "m", b"x" * 50_000)
    code = """
import os, sys
from pathlib import Path
import psutil
from runoff.models import cache
from runoff.models.folder import read_folder
from runoff.models.upkeep import PrunePolicy, prune
folder = read_folder(Path(sys.argv[1]))
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        while True:
            cache.get_named(cache.put_stream([os.urandom(20000)]), "m.onnx")
            cache.working_copy(folder)
            prune(PrunePolicy(everything=True))
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""
    moments = random.Random(3)
    forker = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "m")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with forker:
        for _ in range(40):
            forker.stdin.write("go\n")
            forker.stdin.flush()
            child = int(forker.stdout.readline())
            time.sleep(moments.uniform(0.0, 0.08))
            os.kill(child, signal.SIGKILL)
            assert forker.stdout.readline() == "gone\n"
            assert verify() == []
        forker.stdin.close()
    prune(PrunePolicy(everything=True))
    assert not [path for path in root.rglob(".staging*")]
