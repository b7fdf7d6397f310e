from pathlib import Path

import msgspec
import numpy as np
import pytest

from fakes.fake_models import make_fake_model
from runoff.errors import RuntimeLoadError, RuntimeRunError
from runoff.models.arrays import read_npz, write_npz
from runoff.models.folder import ModelFolder
from runoff.race.candidates import Candidate, list_candidates, with_sessions
from runoff.race.worker import Worker

pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return make_fake_model(
        tmp_path / "model", {"plain": {"factor": 2.0}, "slow": {"latency_ms": 10}, "broken": {"factor": "x"}}
    )


def opened(folder: ModelFolder, package_id: str = "plain") -> Worker:
    worker = Worker()
    worker.open(str(folder.root), msgspec.to_builtins(candidate(folder, package_id)))
    return worker


def candidate(folder: ModelFolder, package_id: str) -> Candidate:
    return next(c for c in list_candidates(folder.manifest.packages, [1]) if c.package_id == package_id)


def write(path: Path, rows: int) -> str:
    write_npz(path, {"x": np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)})
    return str(path)


def test_open_answers_seconds_and_facts(folder) -> None:
    answer = Worker().open(str(folder.root), msgspec.to_builtins(candidate(folder, "plain")))
    assert answer["load_s"] >= 0
    assert answer["facts"]["precision"] == "fp32"


def test_open_fails_in_words_when_the_package_is_no_model(folder) -> None:
    with pytest.raises(RuntimeLoadError, match="fake cannot open"):
        opened(folder, "broken")


def test_outputs_of_all_chunks_are_written_in_order(folder, tmp_path) -> None:
    worker, inputs = opened(folder), write(tmp_path / "in.npz", 6)
    for rows in (1, 2, 3, 6):
        worker.compute(inputs, str(tmp_path / "out.npz"), rows, ["x"])
        assert np.array_equal(read_npz(tmp_path / "out.npz")["y"], 2 * read_npz(Path(inputs))["x"])


def test_turn_takes_at_least_its_runs_and_answers_milliseconds(folder, tmp_path) -> None:
    worker = opened(folder)
    inputs = write(tmp_path / "in.npz", 2)
    worker.first_run(inputs)
    assert worker.prepare(2, inputs, 0.01)["runs"] >= 2
    turn = worker.turn(2, 7, 0.0)
    assert turn["num_runs"] == len(turn["samples_ms"]) == 7
    assert 0 < turn["median_ms"] < 1000


def test_running_before_opening_is_refused(tmp_path) -> None:
    with pytest.raises(RuntimeRunError, match="before it was asked to open"):
        Worker().first_run(write(tmp_path / "in.npz", 1))


def test_peak_memory_is_that_of_this_process(folder) -> None:
    before = Worker().memory()["peak_bytes"]
    block = np.ones(before // 2 + (64 << 20), np.uint8)
    assert Worker().memory()["peak_bytes"] >= before
    assert Worker().memory()["peak_bytes"] > len(block)


def with_three_sessions(folder: ModelFolder, package_id: str = "plain") -> Worker:
    worker = Worker()
    worker.open(str(folder.root), msgspec.to_builtins(with_sessions(candidate(folder, package_id), 3, 1)))
    return worker


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_outputs_are_in_order_when_several_sessions_share_the_chunks(folder, tmp_path, rows) -> None:
    worker, inputs = with_three_sessions(folder), write(tmp_path / "in.npz", 6)
    worker.compute(inputs, str(tmp_path / "out.npz"), rows, ["x"])
    assert np.array_equal(read_npz(tmp_path / "out.npz")["y"], 2 * read_npz(Path(inputs))["x"])


def test_turn_of_several_sessions_answers_their_joint_rate(folder, tmp_path) -> None:
    worker, inputs = with_three_sessions(folder, "slow"), write(tmp_path / "in.npz", 2)
    worker.first_run(inputs)
    assert worker.prepare(2, inputs, 0.01)["runs"] >= 6
    turn = worker.turn(2, 4, 0.0)
    assert turn["num_runs"] == len(turn["samples_ms"]) == 12
    assert turn["median_ms"] >= 10
    assert turn["runs_per_s"] > 1000 / turn["median_ms"]
    assert opened(folder).prepare(2, inputs, 0.01)["runs"] >= 2


def test_rate_of_a_single_session_is_left_to_its_latency(folder, tmp_path) -> None:
    worker, inputs = opened(folder), write(tmp_path / "in.npz", 1)
    worker.prepare(1, inputs, 0.01)
    assert worker.turn(1, 3, 0.0)["runs_per_s"] is None
