from pathlib import Path

import pytest

from fakes.fake_models import QUICK, make_fake_model
from runoff.models.folder import ModelFolder
from runoff.race.candidates import Candidate, list_candidates
from runoff.race.check import Checker
from runoff.race.inputs import find_inputs
from runoff.race.record import Bounds, Entrant

pytestmark = pytest.mark.usefixtures("plugin")
BOUNDS = Bounds(1 << 30, 20.0)


def checker(folder: ModelFolder, tmp_path: Path, *, rows: int = 1, bounds: Bounds = BOUNDS) -> Checker:
    work = tmp_path / "work"
    work.mkdir()
    return Checker(folder, find_inputs(folder, QUICK), work, rows, 1, bounds)


def candidates(folder: ModelFolder) -> dict[str, Candidate]:
    return {candidate.package_id: candidate for candidate in list_candidates(folder.manifest.packages, [1])}


def check(made: Checker, candidate: Candidate) -> Entrant:
    entrant, contestant = made.check(candidate)
    assert (contestant is None) == (entrant.failure is not None)
    if contestant is not None:
        contestant.close()
    return entrant


def test_candidate_that_agrees_has_every_figure(tmp_path) -> None:
    folder = make_fake_model(tmp_path / "model", {"reference": {}, "other": {"factor": 1.01, "precision": "bf16"}})
    made = checker(folder, tmp_path, rows=5)
    first = check(made, candidates(folder)["reference"])
    other = check(made, candidates(folder)["other"])
    assert first.fidelity is not None
    assert (first.fidelity.max_abs, first.fidelity.samples, first.fidelity.inputs) == (0.0, 16, "normal-v1 seed 0")
    assert other.fidelity is not None
    assert other.fidelity.max_rel == pytest.approx(0.01, rel=1e-3)
    assert other.fidelity.against == "reference"
    assert other.runs_at == "bf16"
    for found in (first, other):
        assert found.cold_start_s is not None
        assert found.load_s is not None
        assert found.cold_start_s > found.load_s >= 0
        assert (found.peak_memory_bytes or 0) > 10 << 20
        assert found.size_bytes > 0


@pytest.mark.parametrize(
    ("behaviour", "reason", "bounded"),
    [
        ({"on_open": "segfault"}, "crashed with SIGSEGV", True),
        ({"on_first_run": "segfault"}, "crashed with SIGSEGV", True),
        ({"on_open": "raise"}, "ValueError: the fake was told to raise", False),
        ({"on_run": "raise"}, "ValueError: the fake was told to raise", False),
        ({"factor": "x"}, "fake cannot open", False),
        # A factor that fp32 does not have makes every output infinite.
        ({"factor": 1e39}, "output 'y' is NaN or infinite where the reference is not", False),
    ],
)
def test_candidate_that_fails_keeps_the_reason(tmp_path, behaviour, reason, bounded) -> None:
    folder = make_fake_model(tmp_path / "model", {"reference": {}, "failing": behaviour})
    made = checker(folder, tmp_path)
    check(made, candidates(folder)["reference"])
    found = check(made, candidates(folder)["failing"])
    assert found.failure is not None
    assert reason in found.failure
    assert (found.failed_within == BOUNDS) is bounded


def test_candidate_that_hangs_is_disqualified_with_the_bounds_that_it_broke(tmp_path) -> None:
    folder = make_fake_model(tmp_path / "model", {"reference": {}, "hanging": {"on_run": "hang"}})
    made = checker(folder, tmp_path, bounds=Bounds(1 << 30, 2.0))
    check(made, candidates(folder)["reference"])
    found = check(made, candidates(folder)["hanging"])
    assert found.failure == "hung: no answer to 'first_run' within 2 s"
    assert found.failed_within == Bounds(1 << 30, 2.0)


def test_candidate_that_fills_the_memory_is_disqualified(tmp_path) -> None:
    folder = make_fake_model(tmp_path / "model", {"reference": {}, "hoarding": {"on_first_run": "oom"}})
    made = checker(folder, tmp_path, bounds=Bounds(300 << 20, 20.0))
    check(made, candidates(folder)["reference"])
    found = check(made, candidates(folder)["hoarding"])
    assert found.failure is not None
    assert found.failure.endswith("MiB of memory, more than 300 MiB")


def test_damaged_package_is_disqualified_before_a_process_is_started(tmp_path) -> None:
    folder = make_fake_model(tmp_path / "model", {"reference": {}, "damaged": {}})
    made = checker(folder, tmp_path)
    check(made, candidates(folder)["reference"])
    folder.package("damaged").main_file.write_bytes(b"{")
    found = check(made, candidates(folder)["damaged"])
    assert found.failure is not None
    assert "truncated" in found.failure
    assert found.hint is not None


def test_package_of_a_fixed_batch_is_checked_at_it(tmp_path) -> None:
    folder = make_fake_model(tmp_path / "model", {"reference": {}, "fixed": {"batch": 5}})
    made = checker(folder, tmp_path, rows=1)
    check(made, candidates(folder)["reference"])
    assert check(made, candidates(folder)["fixed"]).fidelity is not None
