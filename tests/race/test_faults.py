"""What goes wrong while racing: failing runtimes, interrupts, full disks, read-only folders, two races at once."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from fakes.model_files import unwritable
from fakes.plugin_site import make_plugin_site
from fakes.race_process import RUNOFF, are_gone, descendants, finish, start, start_race, start_runoff, wait_until
from fakes.tiny_onnx import make_tiny_onnx
from runoff.auto import AutoModel
from runoff.models.folder import ModelFolder, add_package, describe_file, read_folder, staging
from runoff.models.manifest import PackageEntry
from runoff.race.api import race_model
from runoff.race.options import RaceOptions
from runoff.types import Precision

QUICK = RaceOptions(
    rounds=2, max_rounds=2, turn_s=0.0, min_runs=2, warmup_s=0.1, num_threads=(1,), backends=("onnx", "openvino")
)
FAULTS = {
    "fake-segfault": ({"on_run": "segfault"}, "crashed with SIGSEGV"),
    "fake-hang": ({"on_run": "hang"}, "hung: no answer to 'first_run' within 8 s"),
    "fake-oom": ({"on_first_run": "oom"}, "of memory, more than 400 MiB"),
    "fake-raise": ({"on_open": "raise"}, "ValueError: the fake was told to raise"),
    "fake-shape": ({}, "output 'y' has shape [16, 4], the reference's is [16, 3]"),
    "fake-garbage": ({"factor": "x"}, "fake cannot open"),
}


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return make_tiny_onnx(tmp_path / "tiny")


def add_fake(folder: ModelFolder, package_id: str, behaviour: dict[str, object]) -> None:
    with staging(folder.root) as staged:
        (staged / "model.json").write_text(json.dumps(behaviour))
        entry = PackageEntry(package_id, "fake", "fake", Precision.FP32, (describe_file(staged, "model.json"),))
        add_package(folder.root, entry, staged)


def opens_and_verifies(folder: ModelFolder) -> bool:
    for package in read_folder(folder.root).packages:
        package.verify()
    return True


def explanation(out: str) -> str:
    return out[out.index("tiny: ") :]


def part_files(folder: ModelFolder) -> list[Path]:
    return list((folder.root / "records").glob("*.part.json"))


def test_failing_runtimes_are_disqualified_with_their_reasons_and_the_others_finish(folder, tmp_path) -> None:
    for name, (behaviour, _) in FAULTS.items():
        add_fake(folder, name, behaviour)
    site = make_plugin_site(tmp_path / "site")
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])  # noqa: TID251
    arguments = ["race", str(folder.root), "--backend", "onnx,openvino,fake", "--threads", "1", "--rounds", "1"]
    process = start_runoff(*arguments, "--max-memory", "400MB", "--json", PYTHONPATH=path, RUNOFF_WORKER_TIMEOUT_S="8")
    code, out, err = finish(process)
    assert code == 0, err
    assert "Traceback" not in err
    assert json.loads(out)
    (record,) = (folder.root / "records").glob("*.json")
    entrants = {e["candidate"]["package_id"]: e for e in json.loads(record.read_text())["entrants"]}
    for name, (_, reason) in FAULTS.items():
        assert reason in entrants[name]["failure"], name
        assert reason in out, name
    for name in ("onnx-fp32", "openvino-fp32"):
        assert entrants[name]["failure"] is None
        assert entrants[name]["timings"][0]["turns"]
    assert opens_and_verifies(folder)


def test_interrupt_exits_with_130_and_the_race_is_resumed(folder) -> None:
    process = start_runoff("race", str(folder.root), "--backend", "onnx,openvino", "--threads", "1", "--rounds", "9")
    assert wait_until(lambda: bool(part_files(folder)), 30)
    time.sleep(0.3)
    workers = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process, 20)
    assert code == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert are_gone(workers, 2)
    assert opens_and_verifies(folder)
    assert not list(folder.root.rglob(".staging-*"))
    code, out, err = finish(start_race(folder.root, "onnx", "openvino"))
    assert code == 0, err
    assert "resumed an interrupted race" in out


def test_second_of_two_races_waits_and_reuses_the_record(folder) -> None:
    first = start_race(folder.root, "onnx", "openvino")
    assert wait_until(lambda: bool(part_files(folder)), 30)
    second = start_race(folder.root, "onnx", "openvino")
    code, out, err = finish(second)
    assert code == 0, err
    assert "wait another race holds the folder" in out
    assert "reused the record of an earlier race" in out
    assert "check" not in out
    code, first_out, err = finish(first)
    assert code == 0, err
    assert explanation(out) == explanation(first_out)


def test_waiting_race_gives_up_after_its_lock_timeout(folder) -> None:
    first = start_race(folder.root, "onnx", "openvino")
    assert wait_until(lambda: bool(part_files(folder)), 30)
    second = start_runoff("race", str(folder.root), "--backend", "onnx", RUNOFF_LOCK_TIMEOUT_S="0.2")
    code, _, err = finish(second)
    assert code == 1
    assert "another process has held" in err
    assert finish(first)[0] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of files are POSIX's")
def test_full_disk_fails_in_words_and_leaves_a_folder_that_opens_and_races(folder) -> None:
    arguments = ["race", str(folder.root), "--backend", "onnx,openvino", "--threads", "1", "--rounds", "2"]
    # A limit on the size of files fails writes as a full disk does, at the first file that is larger.
    limited = start(["bash", "-c", 'ulimit -f 2; exec "$@"', "bash", *RUNOFF, *arguments])
    code, _, err = finish(limited)
    assert code == 1
    assert "cannot write" in err
    assert "Traceback" not in err
    assert opens_and_verifies(folder)
    code, _, err = finish(start_race(folder.root, "onnx", "openvino"))
    assert code == 0, err


def test_race_of_a_read_only_folder_is_recorded_in_the_cache_and_found_again(folder, cache) -> None:
    before = sorted(path.name for path in folder.root.iterdir())
    with unwritable(folder.root):
        result = race_model(folder.root, QUICK)
        assert cache in result.folder.root.parents
        assert sorted(path.name for path in folder.root.iterdir()) == before
        again = race_model(folder.root, QUICK)
        assert again.notes == ("reused the record of an earlier race",)
        with AutoModel.from_pretrained(folder.root) as model:
            assert model.explain().data["basis"] == "measured"
            assert model.candidate.id == result.decision.require().id
    with AutoModel.from_pretrained(folder.root) as model:
        assert model.explain().data["basis"] == "guessed", "a folder that can be written has its own records"
