"""A race that is killed at any moment leaves a folder that opens, no process behind it, and a race that resumes."""

import random
import shutil
import sys
import time
import uuid
from pathlib import Path

import pytest

from fakes.race_process import MARK, marked, start_race, wait_until
from fakes.tiny_onnx import make_tiny_onnx
from runoff.models.folder import ModelFolder, read_folder
from runoff.race.record import Record, read_record

KILLS = 50
SEED = 20250301
LONGEST_S = 2.5
"""A race that takes longer than this on a busy machine is killed within its first part only."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a child when its parent is gone"),
]


def make_model(root: Path) -> ModelFolder:
    """A model that lacks a package, so that the race begins with an export."""
    shutil.rmtree(root, ignore_errors=True)
    return make_tiny_onnx(root, backends=("onnx",))


def race_to_the_end(root: Path) -> tuple[str, float]:
    """What an uninterrupted race prints, and the seconds from its first step on."""
    process = start_race(root, "onnx", "openvino")
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        # Not `communicate`, which would not see what `readline` has read ahead.
        first = process.stdout.readline()
        started = time.monotonic()
        rest = process.stdout.read()
        errors = process.stderr.read()
    assert process.returncode == 0, errors
    return first + rest, time.monotonic() - started


def kill_race_after(root: Path, delay_s: float, mark: str) -> None:
    """Start a race, kill it some time after its first step, and see to it that nothing of it lives on."""
    process = start_race(root, "onnx", "openvino", **{MARK: mark})
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay_s)
    process.kill()
    process.communicate()
    assert wait_until(lambda: not marked(mark), 3.0), f"alive after the race was killed: {marked(mark)}"


def records(root: Path) -> dict[str, Record | None]:
    return {path.name: read_record(path) for path in (root / "records").glob("*.json")}


@pytest.mark.timeout(400)
def test_race_killed_at_any_moment_leaves_a_folder_that_opens_and_a_race_that_resumes(tmp_path) -> None:
    generator = random.Random(SEED)
    root = make_model(tmp_path / "model").root
    _, duration_s = race_to_the_end(root)
    root = make_model(root).root
    seen_parts = seen_finished = 0
    for number in range(KILLS):
        kill_race_after(root, generator.uniform(0, min(duration_s, LONGEST_S)), uuid.uuid4().hex)
        folder = read_folder(root)
        for package in folder.packages:
            package.verify()
        found = records(root)
        assert None not in found.values(), f"kill {number} left a damaged record: {found}"
        seen_parts += any(name.endswith(".part.json") for name in found)
        if any(not name.endswith(".part.json") for name in found):
            seen_finished += 1
            root = make_model(root).root
    assert seen_parts >= KILLS // 4, "the kills hit races in progress"
    out, _ = race_to_the_end(root)
    assert "measured best" in out
    out, _ = race_to_the_end(root)
    assert "reused the record of an earlier race" in out
    assert not list(root.rglob(".staging-*"))
    assert {entry.id for entry in read_folder(root).manifest.packages} == {"onnx-fp32", "openvino-fp32"}
    print(f"{KILLS} kills: {seen_parts} in progress, {seen_finished} after the end")


def test_killed_race_goes_on_where_it_was(tmp_path) -> None:
    root = make_model(tmp_path / "model").root
    process = start_race(root, "onnx", "openvino")
    assert process.stdout is not None
    assert any("round 2" in line for line in process.stdout)
    process.kill()
    process.communicate()
    (part,) = (record for name, record in records(root).items() if name.endswith(".part.json"))
    assert part is not None
    out, _ = race_to_the_end(root)
    assert "resumed an interrupted race" in out
    assert "check" not in out, "what was checked is not checked again"
    assert "round 1" not in out, "whole rounds are not run again"
    (record,) = records(root).values()
    assert record is not None
    for entrant in part.entrants:
        again = record.entrant(entrant.candidate.id)
        assert again is not None
        assert again.timings[0].turns[0] == entrant.timings[0].turns[0]
