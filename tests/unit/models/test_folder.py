"""A model folder is never left broken: not by a full disk, two writers, a kill, or a hostile manifest."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from fakes.model_files import make_folder, package_of, unwritable
from runoff import settings
from runoff.errors import DigestMismatch, FolderBusy, ManifestInvalid, ModelError, ModelNotFound, PathEscapes
from runoff.models.folder import (
    add_package,
    change_manifest,
    check_file,
    create_folder,
    folder_lock,
    is_writable,
    read_folder,
    staging,
    update_package,
)
from runoff.models.manifest import Fidelity, FileEntry

_ENVIRONMENT = settings.child_environment(PYTHONPATH=str(Path(__file__).parents[2]))


def _run(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], env=_ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )


def _add(root: Path, package_id: str, content: bytes = b"weights") -> None:
    with staging(root) as staged:
        add_package(root, package_of(package_id, {"model.onnx": content}, staged), staged)


def _tree(root: Path) -> dict[str, bytes]:
    names = (path for path in root.rglob("*") if path.is_file() and path.name != ".runoff.lock")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in names}


def _all_ok(root: Path) -> bool:
    return all(check_file(root, file) == "ok" for file in read_folder(root).manifest.files())


def test_folder_reads_back_what_was_created(tmp_path):
    made = make_folder(tmp_path / "m")
    assert read_folder(tmp_path / "m") == made
    made.reference.verify()


def test_folder_is_not_found_when_it_is_missing_or_has_no_manifest(tmp_path):
    with pytest.raises(ModelNotFound, match="there is no folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(ModelNotFound, match=r"has no runoff\.json"):
        read_folder(tmp_path)


def test_reading_says_why_when_the_manifest_is_no_file(tmp_path):
    (tmp_path / "runoff.json").mkdir()
    with pytest.raises(ModelError, match="cannot read"):
        read_folder(tmp_path)


def test_unknown_package_error_names_the_known_ones(tmp_path):
    with pytest.raises(ModelNotFound, match="it has onnx-fp32"):
        make_folder(tmp_path / "m").package("trt-fp16")


@pytest.mark.parametrize(
    ("damage", "status", "error"),
    [
        (lambda path: path.unlink(), "missing", ModelNotFound),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated", DigestMismatch),
        (lambda path: path.write_bytes(b"x" * path.stat().st_size), "changed", DigestMismatch),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "changed", DigestMismatch),
        (lambda path: (path.unlink(), path.mkdir()), "missing", ModelNotFound),
        (lambda path: (path.unlink(), path.symlink_to("/etc/hostname")), "escapes", PathEscapes),
        (lambda path: (path.unlink(), path.symlink_to(path.name)), "missing", ModelNotFound),
        (lambda path: (path.unlink(), os.mkfifo(path)), "missing", ModelNotFound),
    ],
)
def test_damage_to_a_file_is_found_when_it_is_verified(tmp_path, damage, status, error):
    made = make_folder(tmp_path / "m")
    entry = made.manifest.packages[0].files[0]
    damage(made.root / entry.path)
    assert check_file(made.root, entry) == status
    with pytest.raises(error):
        made.reference.verify()


def test_symlinked_parent_is_refused_when_it_leads_out(tmp_path):
    made = make_folder(tmp_path / "m")
    (made.root / "packages").rename(tmp_path / "elsewhere")
    (made.root / "packages").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PathEscapes, match="leads out"):
        made.reference.verify()


def test_symlink_is_followed_when_it_stays_inside(tmp_path):
    made = make_folder(tmp_path / "m")
    path = made.root / made.manifest.packages[0].files[0].path
    path.rename(made.root / "kept.onnx")
    path.symlink_to(made.root / "kept.onnx")
    made.reference.verify()


def test_folder_opens_when_it_is_named_through_a_symlink(tmp_path):
    make_folder(tmp_path / "m")
    (tmp_path / "link").symlink_to(tmp_path / "m")
    read_folder(tmp_path / "link").reference.verify()


def test_create_is_refused_when_the_folder_is_not_empty(tmp_path):
    make_folder(tmp_path / "m")
    with pytest.raises(ModelError, match="not empty"):
        make_folder(tmp_path / "m")


def test_create_leaves_nothing_when_filling_fails(tmp_path):
    def fill(aside: Path):
        (aside / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    with pytest.raises(ModelError, match="No space left"):
        create_folder(tmp_path / "m", fill)
    assert list(tmp_path.iterdir()) == []


def test_create_says_why_when_the_parent_is_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelError, match="cannot write"):
        make_folder(tmp_path / "file" / "m")


def test_package_is_replaced_when_its_id_is_added_again(tmp_path):
    make_folder(tmp_path / "m")
    for content in (b"one", b"two", b"two", b"three"):
        _add(tmp_path / "m", "openvino-fp32", content)
        package = read_folder(tmp_path / "m").package("openvino-fp32")
        assert package.main_file.read_bytes() == content
    folders_left = {path.name for path in (tmp_path / "m" / "packages").iterdir()}
    assert len(folders_left) == 2, "the files of replaced packages are deleted"


def test_replacing_never_touches_the_files_in_use_when_an_unnamed_folder_lies_in_the_way(tmp_path):
    make_folder(tmp_path / "m")
    _add(tmp_path / "m", "p", b"one")
    _add(tmp_path / "m", "p", b"two")
    named = read_folder(tmp_path / "m").package("p").folder
    # What a writer leaves that is killed between the manifest and the clean-up.
    litter = tmp_path / "m" / "packages" / "p"
    assert named != litter
    litter.mkdir()
    _add(tmp_path / "m", "p", b"two")
    assert _all_ok(tmp_path / "m")


def test_digest_of_the_model_stays_when_packages_are_added(tmp_path):
    made = make_folder(tmp_path / "m")
    _add(made.root, "openvino-fp32")
    assert read_folder(made.root).digest() == made.digest()
    assert make_folder(tmp_path / "other", b"other weights").digest() != made.digest()


def test_manifest_is_refused_before_it_is_written_when_it_could_not_be_read_back(tmp_path):
    made = make_folder(tmp_path / "m")
    nan = Fidelity("onnx-fp32", 8, "data", float("nan"), 0.0, 1.0, 1.0)
    with pytest.raises(ManifestInvalid):
        update_package(made.root, msgspec.structs.replace(made.manifest.packages[0], fidelity=nan))
    assert read_folder(made.root) == made


def test_abandoned_files_are_deleted_by_the_next_writer_when_their_maker_is_dead(tmp_path):
    make_folder(tmp_path / "m")
    code = "import sys, os; from pathlib import Path; from runoff.models.staging import staging\n"
    code += "with staging(Path(sys.argv[1])) as aside:\n    (aside / 'f').write_bytes(b'x'); os.kill(os.getpid(), 9)"
    killed = _run(code, tmp_path / "m")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert list((tmp_path / "m").glob(".staging-*"))
    with staging(tmp_path / "m") as mine:
        change_manifest(tmp_path / "m", lambda manifest: manifest)
        assert list((tmp_path / "m").glob(".staging-*")) == [mine]


def test_nothing_is_lost_when_the_disk_is_full(tmp_path):
    make_folder(tmp_path / "m")
    before = _tree(tmp_path / "m")
    # A real OSError out of write(2): files of this process may not grow beyond the limit.
    code = """
import resource, sys
from pathlib import Path
from fakes.model_files import package_of
from runoff.errors import ModelError
from runoff.models.folder import add_package, staging
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    with staging(Path(sys.argv[1])) as staged:
        add_package(Path(sys.argv[1]), package_of("p", {"model.onnx": b"x" * 50_000}, staged), staged)
except ModelError as error:
    print(error.message)
"""
    for limit_bytes in (10_000, 0):
        output, _ = _run(code, tmp_path / "m", limit_bytes).communicate()
        assert "File too large" in output
        assert _tree(tmp_path / "m") == before


def test_nothing_is_lost_when_the_disk_fills_up_at_the_manifest(tmp_path):
    make_folder(tmp_path / "m")
    before = _tree(tmp_path / "m")
    code = """
import resource, sys
from pathlib import Path
from fakes.model_files import package_of
from runoff.errors import ModelError
from runoff.models.folder import add_package, staging
root = Path(sys.argv[1])
try:
    with staging(root) as staged:
        entry = package_of("p", {"model.onnx": b"x"}, staged)
        size = (root / "runoff.json").stat().st_size // 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        add_package(root, entry, staged)
except ModelError as error:
    print(error.message)
"""
    output, _ = _run(code, tmp_path / "m").communicate()
    assert "File too large" in output
    assert _tree(tmp_path / "m") == before


def test_read_only_folder_is_told_and_can_be_read(tmp_path):
    made = make_folder(tmp_path / "m")
    assert is_writable(made.root)
    with unwritable(made.root):
        assert not is_writable(made.root)
        assert _all_ok(made.root)
        with pytest.raises(ModelError, match="cannot"):
            change_manifest(made.root, lambda manifest: manifest)
        with pytest.raises(ModelError, match="cannot write"):
            _add(made.root, "p")
    assert read_folder(made.root) == made


def test_folder_is_not_writable_when_it_is_missing_or_on_a_read_only_file_system(tmp_path):
    assert not is_writable(tmp_path / "none")
    assert not is_writable(Path("/proc"))


def test_lock_is_refused_when_another_process_keeps_it(tmp_path, monkeypatch):
    make_folder(tmp_path / "m")
    code = "import sys; from pathlib import Path; from runoff.models.folder import folder_lock\n"
    code += "with folder_lock(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "m")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        waited = []
        monkeypatch.setenv("RUNOFF_LOCK_TIMEOUT_S", "0.2")
        with (
            pytest.raises(FolderBusy, match=r"for 0\.2 s"),
            folder_lock(tmp_path / "m", lambda: waited.append(1)),
        ):
            pass
        assert waited == [1]
        holder.kill()
    with folder_lock(tmp_path / "m"), folder_lock(tmp_path / "m"):
        pass


def test_every_package_is_there_when_two_processes_add_at_once(tmp_path):
    make_folder(tmp_path / "m")
    code = """
import sys
from pathlib import Path
from fakes.model_files import package_of
from runoff.models.folder import add_package, staging
root = Path(sys.argv[1])
for number in range(15):
    with staging(root) as staged:
        entry = package_of(f"{sys.argv[2]}-{number}", {"model.onnx": sys.argv[2].encode() * number}, staged)
        add_package(root, entry, staged)
"""
    writers = [_run(code, tmp_path / "m", name) for name in ("a", "b")]
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    assert len(read_folder(tmp_path / "m").manifest.packages) == 31
    assert _all_ok(tmp_path / "m")


def test_folder_always_opens_when_its_writer_is_killed_at_any_moment(tmp_path):
    root = tmp_path / "m"
    make_folder(root)
    # One writer process that forks victims, so that a start of Python is not paid for each of them.
    code = """
import os, sys
from pathlib import Path
from fakes.model_files import package_of
import psutil  # as the first writer would, so that no victim spends its life on it
from runoff.models.folder import add_package, staging
root = Path(sys.argv[1])
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        number = 0
        while True:
            with staging(root) as staged:
                add_package(root, package_of(f"p{number % 3}", {"a/model.onnx": os.urandom(3000)}, staged), staged)
            number += 1
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""
    moments = random.Random(7)
    forker = subprocess.Popen(
        [sys.executable, "-c", code, str(root)],
        env=_ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with forker:
        assert forker.stdin is not None
        assert forker.stdout is not None
        for _ in range(60):
            forker.stdin.write("go\n")
            forker.stdin.flush()
            child = int(forker.stdout.readline())
            time.sleep(moments.uniform(0.0, 0.12))
            os.kill(child, signal.SIGKILL)
            assert forker.stdout.readline() == "gone\n"
            assert _all_ok(root)
        forker.stdin.close()
    _add(root, "last")
    named = {file.path.split("/")[1] for file in read_folder(root).manifest.files() if "/" in file.path}
    assert {path.name for path in (root / "packages").iterdir()} == named, "no litter is left"
    assert not list(root.glob(".staging-*"))
    assert len(named) > 2, "the victims lived long enough to write"


def test_unreadable_file_is_told_apart_from_a_missing_one():
    # Reading this file at its start fails with EIO for everyone, root included.
    assert check_file(Path("/proc"), FileEntry("self/mem", "0" * 64, 0)) == "unreadable"
