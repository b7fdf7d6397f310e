import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fakes import race_facts
from fakes.fake_models import QUICK, make_fake_model
from runoff.models.folder import ModelFolder
from runoff.race.candidates import list_candidates
from runoff.race.check import Checker
from runoff.race.contestant import Contestant
from runoff.race.inputs import find_inputs
from runoff.race.ledger import Ledger, open_ledger
from runoff.race.options import Event, RaceOptions, silent
from runoff.race.record import Bounds, Entrant, RaceSettings
from runoff.race.rounds import Stable, Timer, batches_of, rounds_done

pytestmark = pytest.mark.usefixtures("plugin")
BOUNDS = Bounds(1 << 30, 20.0)
PLENTY_BYTES = 8 << 30


class Track:
    """Candidates that were checked and wait to be timed."""

    def __init__(self, folder: ModelFolder, work: Path, options: RaceOptions) -> None:
        work.mkdir()
        settings = RaceSettings(options.batches, "normal-v1 seed 0", 16)
        self.folder, self.options, self.work = folder, options, work
        self.inputs = find_inputs(folder, options)
        self.ledger: Ledger = open_ledger(folder, race_facts.environment(), settings, fresh=True)[0]
        self.opened: list[str] = []
        checker = Checker(folder, self.inputs, work, max(options.batches), 1, BOUNDS)
        for candidate in list_candidates(folder.manifest.packages, [1]):
            entrant, contestant = checker.check(candidate)
            assert contestant is not None, entrant.failure
            contestant.close()
            self.ledger.put(entrant)

    def open(self, entrant: Entrant) -> Contestant:
        self.opened.append(entrant.candidate.id)
        contestant = Contestant(self.folder.package(entrant.candidate.package_id), entrant.candidate, BOUNDS)
        try:
            contestant.open()
        except BaseException:
            contestant.close()
            raise
        return contestant

    def run(self, *names: str, listener: Callable[[Event], None] = silent, budget_bytes: int = PLENTY_BYTES) -> None:
        stable = Stable(budget_bytes)
        timer = Timer(self.folder, self.options, self.inputs, self.work, self.ledger, listener, BOUNDS, self.open)
        try:
            timer.run([f"{name}@1" for name in names], stable)
            assert not stable.members
        finally:
            stable.close()

    def entrant(self, name: str) -> Entrant:
        found = self.ledger.record.entrant(f"{name}@1")
        assert found is not None
        return found

    def rounds(self, name: str, batch: int = 1) -> list[int]:
        timing = self.entrant(name).timing(batch)
        return [turn.round for turn in timing.turns] if timing else []


@pytest.fixture
def track(tmp_path: Path) -> Callable[..., Track]:
    def make(packages: Mapping[str, Mapping[str, Any]], **changes: Any) -> Track:
        folder = make_fake_model(tmp_path / "model", packages)
        return Track(folder, tmp_path / "work", msgspec.structs.replace(QUICK, **changes))

    return make


def test_every_candidate_takes_every_round_at_every_batch(track) -> None:
    made = track({"a": {}, "b": {}}, rounds=3, max_rounds=3, batches=(1, 4))
    made.run("a", "b")
    for name in ("a", "b"):
        assert made.rounds(name, 1) == made.rounds(name, 4) == [0, 1, 2]
    assert made.entrant("a").failure is None


def test_much_slower_one_retires_with_the_reason(track) -> None:
    made = track({"fast": {"latency_ms": 1}, "slow": {"latency_ms": 30}}, rounds=4, max_rounds=4)
    made.run("fast", "slow")
    assert made.rounds("fast") == [0, 1, 2, 3]
    assert made.rounds("slow") == [0, 1]
    assert "times slower than the best of its precision" in (made.entrant("slow").retired or "")
    assert made.entrant("fast").retired is None


def test_one_that_is_slower_than_another_precision_goes_on(track) -> None:
    made = track({"fp32": {"latency_ms": 30}, "bf16": {"latency_ms": 1, "precision": "bf16"}}, rounds=4, max_rounds=4)
    made.run("fp32", "bf16")
    assert made.rounds("fp32") == made.rounds("bf16") == [0, 1, 2, 3]


def test_nobody_retires_when_the_objective_is_not_speed(track) -> None:
    made = track({"fast": {}, "slow": {"latency_ms": 20}}, rounds=3, max_rounds=3, objective="memory")
    made.run("fast", "slow")
    assert made.rounds("slow") == [0, 1, 2]


def test_slow_at_one_batch_only_goes_on(track) -> None:
    made = track({"all": {"latency_ms": 1}, "fixed": {"latency_ms": 1, "batch": 4}}, batches=(1, 4))
    made.run("all", "fixed")
    assert made.rounds("fixed", 1) == []
    assert made.rounds("fixed", 4) == [0, 1]


def test_rounds_go_on_while_a_leader_is_noisy(track) -> None:
    made = track({"a": {}, "b": {}}, rounds=1, max_rounds=3)
    made.run("a", "b")
    assert made.rounds("a") == [0, 1, 2], "the spread of one round is all of it"


def test_candidate_that_dies_while_it_is_timed_is_disqualified_and_the_others_finish(track) -> None:
    made = track({"a": {}, "b": {}, "c": {}}, rounds=3, max_rounds=3)

    def kill_in_the_second_round(event: Event) -> None:
        if event.detail == "round 2":
            os.kill(pids["b@1"], signal.SIGSEGV)

    pids: dict[str, int] = {}
    make = made.open

    def remember(entrant: Entrant) -> Contestant:
        contestant = make(entrant)
        pids[entrant.candidate.id] = contestant.pid
        return contestant

    made.open = remember
    made.run("a", "b", "c", listener=kill_in_the_second_round)
    assert made.entrant("b").failure == "crashed with SIGSEGV"
    assert made.entrant("b").failed_within == BOUNDS
    assert made.rounds("a") == made.rounds("c") == [0, 1, 2]


def test_race_ends_when_every_candidate_dies(track) -> None:
    made = track({"a": {}, "b": {}}, rounds=3, max_rounds=3)
    contestants: list[Contestant] = []
    make = made.open

    def remember(entrant: Entrant) -> Contestant:
        contestants.append(make(entrant))
        return contestants[-1]

    def kill_all(event: Event) -> None:
        if event.detail == "round 3":
            for contestant in contestants:
                os.kill(contestant.pid, signal.SIGKILL)

    made.open = remember
    made.run("a", "b", listener=kill_all)
    assert all("SIGKILL" in (made.entrant(name).failure or "") for name in ("a", "b"))


def test_candidate_that_no_longer_opens_is_disqualified(track) -> None:
    made = track({"a": {}, "b": {}})
    path = made.folder.package("b").main_file
    path.write_text("{")
    made.run("a", "b")
    assert "fake cannot open" in (made.entrant("b").failure or "")
    assert made.rounds("a") == [0, 1]


def test_best_runs_again_beside_those_that_did_not_fit_in_memory(track) -> None:
    made = track({"a": {"latency_ms": 1}, "b": {"latency_ms": 3}, "c": {"latency_ms": 2}})
    budget_bytes = int(2.5 * (made.entrant("a").peak_memory_bytes or 0))
    made.run("a", "b", "c", budget_bytes=budget_bytes)
    assert made.opened == ["a@1", "b@1", "a@1", "c@1"]
    assert all(made.rounds(name) == [0, 1] for name in ("a", "b", "c"))


def test_each_runs_alone_when_two_never_fit_in_memory(track) -> None:
    made = track({"a": {}, "b": {}, "c": {}})
    made.run("a", "b", "c", budget_bytes=1)
    assert made.opened == ["a@1", "b@1", "c@1"]
    assert all(made.rounds(name) == [0, 1] for name in ("a", "b", "c"))


def test_round_that_was_cut_short_is_run_again_by_all(track) -> None:
    made = track({"a": {}, "b": {}}, rounds=3, max_rounds=3)

    class Stop(Exception):
        """The race is interrupted."""

    def stop(event: Event) -> None:
        if event.detail == "round 3":
            raise Stop

    with pytest.raises(Stop):
        made.run("a", "b", listener=stop)
    entrant = made.entrant("a")
    extra = msgspec.structs.replace(entrant.timings[0].turns[0], round=2)
    timing = msgspec.structs.replace(entrant.timings[0], turns=(*entrant.timings[0].turns, extra))
    made.ledger.put(msgspec.structs.replace(entrant, timings=(timing,)))
    first = made.entrant("b").timings[0].turns[0]
    made.run("a", "b")
    assert made.rounds("a") == made.rounds("b") == [0, 1, 2]
    assert made.entrant("a").timings[0].turns[2] != extra
    assert made.entrant("b").timings[0].turns[0] == first, "whole rounds are never redone"


def test_batches_of_a_fixed_package_are_its_own() -> None:
    options = RaceOptions(batches=(1, 8))
    assert batches_of(race_facts.package("onnx-fp32"), options) == (1, 8)
    assert batches_of(race_facts.package("onnx-fp32", batch=8), options) == (8,)
    assert batches_of(race_facts.package("onnx-fp32", batch=3), options) == ()


def test_rounds_done_are_those_of_the_batch_that_is_behind() -> None:
    made = race_facts.entrant(
        race_facts.package("onnx-fp32"), race_facts.timing([1.0] * 3), race_facts.timing([1.0] * 2, 8)
    )
    assert rounds_done(made, (1,)) == 3
    assert rounds_done(made, (1, 8)) == 2
    assert rounds_done(made, (1, 8, 16)) == 0


def test_stable_keeps_what_fits_and_always_one(track) -> None:
    made = track({"a": {}, "b": {}})
    stable = Stable(budget_bytes=1)
    try:
        first, second = made.entrant("a"), made.entrant("b")
        assert stable.keep(made.open(first), first)
        assert not stable.fits(second)
        assert not stable.keep(made.open(second), second)
        assert list(stable.members) == ["a@1"]
    finally:
        stable.close()
    assert stable.fits(second)
