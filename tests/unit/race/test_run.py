import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fakes import model_files
from fakes.fake_models import QUICK, make_fake_model
from fakes.plugin_site import MODULE, add_entry_point
from runoff.backends import table
from runoff.errors import InputError, RaceError, UnknownName
from runoff.models.folder import ModelFolder, add_package, describe_tree, read_folder, staging
from runoff.models.manifest import PackageEntry
from runoff.models.staging import name_aside
from runoff.race.fidelity import Contract
from runoff.race.options import Event, RaceOptions
from runoff.race.record import record_path
from runoff.race.run import RaceResult, race_folder
from runoff.types import Precision

pytestmark = pytest.mark.usefixtures("plugin")
TWO = {"first": {}, "second": {}}


class Steps(list[Event]):
    """A listener that remembers, and may stop the race at a step as ctrl-C would."""

    def __init__(self, stop_at: str | None = None) -> None:
        super().__init__()
        self.stop_at = stop_at

    def __call__(self, event: Event) -> None:
        self.append(event)
        if self.stop_at is not None and event.detail == self.stop_at:
            raise KeyboardInterrupt

    @property
    def checked(self) -> list[str]:
        return [e.detail for e in self if e.stage == "check" and e.detail != "all checked"]

    @property
    def timed(self) -> list[str]:
        return [e.detail.removeprefix("warming up ") for e in self if e.detail.startswith("warming up ")]


def model(tmp_path: Path, packages: Mapping[str, Mapping[str, Any]] = TWO, **options: Any) -> ModelFolder:
    return make_fake_model(tmp_path / "model", packages, **options)


def race(folder: ModelFolder, **changes: Any) -> tuple[RaceResult, Steps]:
    steps = Steps()
    return race_folder(folder, msgspec.structs.replace(QUICK, **changes), steps), steps


def failures(result: RaceResult) -> dict[str, str]:
    return {e.candidate.package_id: e.failure for e in result.record.entrants if e.failure}


def rounds(result: RaceResult, name: str) -> int:
    entrant = result.record.entrant(f"{name}@1")
    timing = entrant.timing(1) if entrant else None
    return len(timing.turns) if timing else 0


def add_fake_package(folder: ModelFolder, package_id: str, content: bytes) -> ModelFolder:
    with staging(folder.root) as staged:
        (staged / "model.json").write_bytes(content)
        files = describe_tree(staged, staged)
        return add_package(folder.root, PackageEntry(package_id, "fake", "fake", Precision.FP32, files), staged)


def test_race_checks_times_decides_and_records(tmp_path) -> None:
    result, steps = race(model(tmp_path, {"slow": {"latency_ms": 3}, "fast": {"latency_ms": 1}}))
    assert result.decision.require().id == "fast@1"
    assert result.decision.basis == "measured"
    assert [event.stage for event in steps if event.stage not in ("wait", "make")][-1] == "done"
    assert steps.timed == ["slow@1", "fast@1"]
    stored = record_path(result.folder.root, result.environment.fingerprint)
    assert msgspec.json.decode(stored.read_bytes(), type=type(result.record)) == result.record
    assert [path.name for path in (result.folder.root / "records").iterdir()] == [stored.name]
    written = read_folder(result.folder.root).manifest.package("fast")
    assert written is not None
    assert written.fidelity is not None
    assert written.fidelity.against == "slow"
    assert result.folder.manifest.package("slow").fidelity is None, "the reference has none"


def test_second_race_reuses_the_record_and_starts_no_process(tmp_path) -> None:
    first, _ = race(model(tmp_path))
    second, steps = race(first.folder)
    assert {event.stage for event in steps} == {"done"}
    assert second.notes == ("reused the record of an earlier race",)
    assert second.record == first.record, "the time of the race included"
    assert second.decision.ranking == first.decision.ranking


def test_race_by_force_measures_again(tmp_path) -> None:
    first, _ = race(model(tmp_path))
    again, steps = race(first.folder, force=True)
    assert len(steps.checked) == 2
    assert again.record.entrants != first.record.entrants


def test_incumbents_are_timed_again_beside_a_newcomer_but_not_checked(tmp_path) -> None:
    first, _ = race(model(tmp_path, {"best": {"latency_ms": 5}, "near": {"latency_ms": 5}, "far": {"latency_ms": 40}}))
    folder = add_fake_package(first.folder, "new", b'{"latency_ms": 5}')
    second, steps = race(folder)
    assert steps.checked == ["best@1, the reference", "new@1"]
    assert set(steps.timed) == {"best@1", "near@1", "new@1"}
    for name in ("best", "near"):
        assert second.record.entrant(f"{name}@1").timings != first.record.entrant(f"{name}@1").timings
    assert second.record.entrant("far@1") == first.record.entrant("far@1")


def test_package_that_was_made_again_is_raced_again(tmp_path) -> None:
    first, _ = race(model(tmp_path))
    folder = add_fake_package(first.folder, "second", b'{"latency_ms": 1.5}')
    _, steps = race(folder)
    assert steps.checked == ["first@1, the reference", "second@1"]


def test_record_is_invalid_and_says_why_when_the_environment_changes(tmp_path) -> None:
    first, _ = race(model(tmp_path))
    add_entry_point(tmp_path / "site", "another", f"{MODULE}:ROW")
    table.forget_plugins()
    second, steps = race(first.folder)
    assert len(steps.checked) == 2
    assert second.notes == (
        f"the record of {first.record.raced_at} does not hold here: plugin.another: added, runoff-another 1.0",
    )
    shutil.rmtree(tmp_path / "site" / "runoff_another-1.0.dist-info")
    table.forget_plugins()
    third, steps = race(first.folder)
    assert steps.checked == []
    assert third.record == first.record


def test_wrong_candidate_is_rejected_and_not_timed(tmp_path) -> None:
    result, steps = race(model(tmp_path, {"right": {"latency_ms": 2}, "wrong": {"factor": 1.1}}))
    assert steps.timed == ["right@1"]
    assert result.decision.require().id == "right@1"
    (rejection,) = result.decision.rejections
    assert rejection.candidate_id == "wrong@1"
    assert rejection.reason.startswith("outside its contract: largest relative error")


def test_wrong_and_fast_candidate_retires_nobody(tmp_path) -> None:
    packages = {"right": {"latency_ms": 10}, "same": {"latency_ms": 10}, "wrong": {"factor": -1.0}}
    result, _ = race(model(tmp_path, packages), rounds=4, max_rounds=4)
    assert rounds(result, "right") == rounds(result, "same") == 4


def test_candidate_outside_the_contract_is_timed_when_a_wider_one_is_asked_for(tmp_path) -> None:
    first, _ = race(model(tmp_path, {"right": {"latency_ms": 2}, "coarse": {"factor": 1.1}}))
    second, steps = race(first.folder, contract=Contract(max_error=0.2))
    assert steps.checked == []
    assert set(steps.timed) >= {"coarse@1"}
    assert second.decision.require().id == "coarse@1"


def test_candidate_within_the_usual_contract_is_timed_though_a_stricter_one_was_asked_for(tmp_path) -> None:
    packages = {"right": {"latency_ms": 2}, "coarse": {"factor": 1.01, "precision": "bf16"}}
    result, steps = race(model(tmp_path, packages), contract=Contract("exact"))
    assert result.decision.require().id == "right@1"
    assert "coarse@1" in steps.timed


def test_reference_that_does_not_compete_is_compared_with_and_not_timed(tmp_path) -> None:
    result, steps = race(model(tmp_path), candidates=("second",))
    assert steps.checked == ["first@1, the reference", "second@1"]
    assert steps.timed == ["second@1"]
    assert result.decision.require().id == "second@1"
    assert [ranked.candidate.id for ranked in result.decision.ranking] == ["second@1", "first"]


def test_reference_made_for_another_batch_is_compared_with(tmp_path) -> None:
    result, steps = race(model(tmp_path, {"first": {"batch": 4}, "second": {}}), batches=(2,))
    assert steps.timed == ["second@1"]
    assert result.decision.require().id == "second@1"


def test_reference_that_competes_later_is_timed_and_keeps_its_check(tmp_path) -> None:
    first, _ = race(model(tmp_path), candidates=("second",))
    _, steps = race(first.folder)
    assert set(steps.timed) == {"first@1", "second@1"}


def test_golden_pair_stands_in_when_the_reference_cannot_run(tmp_path) -> None:
    packages = {"first": {"on_run": "segfault"}, "second": {}, "wrong": {"factor": 2.0}}
    result, steps = race(model(tmp_path, packages, golden=True))
    assert result.decision.require().id == "second@1"
    assert failures(result) == {"first": "crashed with SIGSEGV"}
    assert steps.checked.count("first@1, the reference") == 1
    assert "first@1" not in steps.checked, "it is not tried twice"
    note = "the reference cannot run here (crashed with SIGSEGV): checked against the golden pair"
    assert note in result.decision.notes
    again, _ = race(result.folder)
    assert note in again.decision.notes


def test_race_fails_with_the_reason_when_the_reference_cannot_run_and_there_is_no_golden_pair(tmp_path) -> None:
    with pytest.raises(RaceError, match=r"cannot run here \(ValueError: the fake was told to raise\)"):
        race(model(tmp_path, {"first": {"on_open": "raise"}, "second": {}}))


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ({"on_run": "segfault"}, "crashed with SIGSEGV"),
        ({"on_open": "raise"}, "ValueError: the fake was told to raise"),
        ({"factor": 1e39}, "NaN or infinite"),
    ],
)
def test_failing_candidate_is_disqualified_and_the_others_finish(tmp_path, behaviour, reason) -> None:
    folder = model(tmp_path, {"first": {"latency_ms": 1}, "failing": behaviour, "last": {"latency_ms": 1}})
    result, _ = race(folder)
    assert list(failures(result)) == ["failing"]
    assert reason in failures(result)["failing"]
    assert rounds(result, "first") == rounds(result, "last") == 2
    assert {r.candidate_id: r.reason for r in result.decision.rejections}["failing@1"] == failures(result)["failing"]
    _, steps = race(result.folder)
    assert steps.checked == [], "a disqualified candidate is not tried again"


def test_candidate_that_was_too_large_is_tried_again_when_more_is_allowed(tmp_path) -> None:
    folder = model(tmp_path, {"first": {}, "large": {"on_first_run": "oom", "oom_bytes": 400 << 20}})
    first, _ = race(folder, max_memory_bytes=200 << 20)
    assert "more than 200 MiB" in failures(first)["large"]
    same, steps = race(first.folder, max_memory_bytes=200 << 20)
    assert steps.checked == []
    assert failures(same) == failures(first)
    more, steps = race(first.folder, max_memory_bytes=2 << 30)
    assert "large@1" in steps.checked
    assert failures(more) == {"large": "ran out of memory"}


def test_candidate_that_hung_is_tried_again_when_it_may_take_longer(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RUNOFF_WORKER_TIMEOUT_S", "2")
    first, _ = race(model(tmp_path, {"first": {}, "hanging": {"on_run": "hang"}}))
    assert failures(first) == {"hanging": "hung: no answer to 'first_run' within 2 s"}
    monkeypatch.setenv("RUNOFF_WORKER_TIMEOUT_S", "2.5")
    second, steps = race(first.folder)
    assert "hanging@1" in steps.checked
    assert failures(second) == {"hanging": "hung: no answer to 'first_run' within 2.5 s"}


@pytest.mark.parametrize("stop_at", ["second@1", "all checked", "warming up second@1", "round 2"])
def test_interrupted_race_leaves_a_folder_that_opens_and_is_resumed(tmp_path, stop_at) -> None:
    folder = model(tmp_path)
    stopping = Steps(stop_at)
    with pytest.raises(KeyboardInterrupt):
        race_folder(folder, QUICK, stopping)
    for package in read_folder(folder.root).packages:
        package.verify()
    assert not list(folder.root.glob(".staging-*"))
    result, steps = race(folder)
    assert result.notes == ("resumed an interrupted race",)
    assert result.decision.require().id in ("first@1", "second@1")
    assert rounds(result, "first") == rounds(result, "second") == 2
    again = set(steps.checked) & set(stopping.checked[:-1])
    assert again <= {"first@1, the reference"}, "what was checked is not checked again"


def test_litter_of_a_killed_race_is_removed(tmp_path) -> None:
    folder = model(tmp_path)
    (folder.root / "records").mkdir()
    for place in (folder.root, folder.root / "records"):
        alive = name_aside(place)
        head, _, tail = alive.name.rpartition("-")
        dead = place / f"{head.rpartition('-')[0]}-4194305-{tail}"
        dead.mkdir()
        (dead / "batch-1.npz").write_bytes(b"left over")
    race(folder)
    assert not list(folder.root.rglob(".staging-*"))


def test_data_of_the_user_is_compared_and_timed_on(tmp_path) -> None:
    folder = model(tmp_path)
    np.savez(tmp_path / "data.npz", x=np.ones((3, 4), np.float32))
    result, _ = race(folder, data=tmp_path / "data.npz", batches=(1, 5))
    fidelity = result.record.entrants[1].fidelity
    assert fidelity is not None
    assert fidelity.samples == 3
    assert fidelity.inputs.startswith("data sha256 ")
    assert [timing.batch for timing in result.record.entrants[1].timings] == [1, 5]
    np.savez(tmp_path / "wrong.npz", z=np.ones(3))
    with pytest.raises(InputError):
        race(folder, data=tmp_path / "wrong.npz")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (RaceOptions(batches=()), RaceError, "batch sizes"),
        (RaceOptions(batches=(1, 0)), RaceError, "batch sizes"),
        (RaceOptions(num_threads=()), RaceError, "thread counts"),
        (RaceOptions(num_threads=(0,)), RaceError, "thread counts"),
        (RaceOptions(sessions=(2,)), RaceError, "sessions are raced for throughput"),
        (RaceOptions(sessions=(0,), objective="throughput"), RaceError, "numbers of sessions"),
        (RaceOptions(samples=0), RaceError, "samples is 0"),
        (RaceOptions(rounds=0), RaceError, "rounds is 0"),
        (RaceOptions(backends=("onxx",)), UnknownName, "unknown backend 'onxx'"),
        (msgspec.structs.replace(QUICK, candidates=("first+turbo",)), UnknownName, "unknown candidate 'first.turbo'"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, options, error, message) -> None:
    with pytest.raises(error, match=message):
        race_folder(model(tmp_path), options)


def test_race_that_nobody_enters_is_recorded_and_the_choice_is_guessed(tmp_path) -> None:
    folder = model_files.make_folder(tmp_path / "model")
    result, _ = race(folder)
    assert result.record.entrants == ()
    assert result.decision.basis == "guessed"
    assert record_path(folder.root, result.environment.fingerprint).exists()


def throughput(folder: ModelFolder, **changes: Any) -> tuple[RaceResult, Steps]:
    return race(folder, objective="throughput", num_threads=(1,), sessions=(2,), **changes)


def test_race_for_throughput_times_the_leaders_with_several_sessions_beside_one(tmp_path) -> None:
    folder = model(tmp_path, {"near": {"latency_ms": 5}, "far": {"latency_ms": 400}})
    result, steps = throughput(folder, batches=(1, 4))
    assert steps.checked[-1] == "near@1x2"
    assert steps.timed.count("near@1") == 4, "at two batch sizes, alone and again beside its shape"
    shape, single = result.record.entrant("near@1x2"), result.record.entrant("near@1")
    assert shape is not None
    assert single is not None
    assert result.record.entrant("far@1x2") is None
    assert [timing.batch for timing in shape.timings] == [1, 4]
    assert shape.fidelity is not None
    # A run sleeps: two sessions finish twice as many.
    assert shape.timings[1].items_per_s > 1.4 * single.timings[1].items_per_s
    serving = result.decision.serving
    assert serving is not None
    assert (serving.candidate_id, serving.sessions, serving.threads_per_session, serving.batch) == ("near@1x2", 2, 1, 4)
    assert serving.items_per_s == shape.timings[1].items_per_s
    assert result.decision.require().session_options().num_threads == 1


def test_shapes_are_not_timed_again_and_do_not_compete_for_latency(tmp_path) -> None:
    first, _ = throughput(model(tmp_path, {"one": {"latency_ms": 5}}))
    again, steps = throughput(first.folder)
    assert {event.stage for event in steps} == {"done"}
    assert again.record == first.record
    latency, steps = race(first.folder)
    assert {event.stage for event in steps} == {"done"}
    assert latency.decision.serving is None
    assert [ranked.candidate.id for ranked in latency.decision.ranking] == ["one@1"]


def test_race_for_throughput_that_was_interrupted_goes_on(tmp_path) -> None:
    folder = model(tmp_path, {"one": {"latency_ms": 5}})
    options = msgspec.structs.replace(QUICK, objective="throughput", sessions=(2,))
    with pytest.raises(KeyboardInterrupt):
        race_folder(folder, options, Steps("warming up one@1x2"))
    result, steps = throughput(folder)
    assert "one@1x2" not in steps.checked
    assert all(len(entrant.timings[0].turns) == 2 for entrant in result.record.entrants)


def test_session_that_fails_among_several_disqualifies_its_shape_only(tmp_path) -> None:
    folder = model(tmp_path, {"one": {"latency_ms": 5, "alone": True}})
    result, _ = throughput(folder)
    assert result.decision.require().id == "one@1"
    (rejection,) = result.decision.rejections
    assert (rejection.candidate_id, rejection.reason) == ("one@1x2", "RuntimeError: the fake runs alone")


def test_timings_at_other_batches_are_kept_and_what_is_checked_is_the_largest(tmp_path) -> None:
    first, _ = race(model(tmp_path, {"first": {"latency_ms": 1}, "second": {"latency_ms": 1}}))
    second, steps = race(first.folder, batches=(4,))
    assert second.notes == (f"timings at batch 1 are those of the race of {first.record.raced_at}",)
    assert second.record.settings.batches == (4, 1)
    assert steps.checked == ["first@1, the reference", "second@1"], "at batch 4 nothing was compared yet"
    for name in ("first@1", "second@1"):
        old, new = first.record.entrant(name), second.record.entrant(name)
        assert old is not None
        assert new is not None
        assert new.timing(1) == old.timing(1)
        assert new.timing(4) is not None
    assert race(second.folder, batches=(4,))[1].timed == []
    third, steps = race(second.folder, batches=(2,))
    assert (third.record.settings.batches, steps.checked) == ((2, 4, 1), [])
    assert set(steps.timed) == {"first@1", "second@1"}


def test_one_that_retired_is_timed_at_a_batch_that_it_was_not_raced_at(tmp_path) -> None:
    packages = {"fast": {"latency_ms": 1}, "slow": {"latency_ms": 20}}
    first, _ = race(model(tmp_path, packages), rounds=3, max_rounds=3)
    retired = first.record.entrant("slow@1")
    assert retired is not None
    assert retired.retired is not None
    assert race(first.folder, rounds=3, max_rounds=3)[1].timed == []
    _, steps = race(first.folder, batches=(2,), rounds=3, max_rounds=3)
    assert "slow@1" in steps.timed
