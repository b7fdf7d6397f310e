import gc
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.race.timing import TurnPlan, take_turn, take_turn_together, warm_up


class Run:
    """A run that sleeps for the given times in turn, the last one for ever, and counts."""

    def __init__(self, *sleeps_s: float) -> None:
        self.sleeps_s = sleeps_s
        self.count = 0

    def __call__(self) -> None:
        time.sleep(self.sleeps_s[min(self.count, len(self.sleeps_s) - 1)])
        self.count += 1


def test_warm_up_goes_on_while_runs_get_faster() -> None:
    run = Run(*[0.02] * 5, 0.002)
    assert warm_up(run, 5.0) == run.count
    assert run.count >= 13, "until no window of five has a slow median"


def test_warm_up_ends_at_its_limit_when_runs_never_settle() -> None:
    count = 0

    def run() -> None:
        nonlocal count
        count += 1
        time.sleep(0.002 * (1 + count))

    started = time.perf_counter()
    assert warm_up(run, 0.1) == count
    assert time.perf_counter() - started < 1.0


def test_warm_up_runs_twice_however_short_its_limit() -> None:
    assert warm_up(Run(0.001), 0.0) == 2


def test_turn_has_the_least_number_of_runs_however_slow() -> None:
    run = Run(0.01)
    assert len(take_turn(run, TurnPlan(min_runs=4, seconds=0.0))) == 4
    assert run.count == 6, "two runs wake the caches first"


def test_turn_lasts_its_time_however_fast() -> None:
    started = time.perf_counter()
    samples = take_turn(Run(0.0), TurnPlan(min_runs=1, seconds=0.05))
    assert 0.05 <= time.perf_counter() - started < 1.0
    assert len(samples) > 5


def test_samples_are_milliseconds() -> None:
    samples = take_turn(Run(0.01), TurnPlan(min_runs=3, seconds=0.0))
    assert all(10 <= sample < 500 for sample in samples)


@given(st.integers(1, 5))
def test_sample_is_never_zero(min_runs: int) -> None:
    assert min(take_turn(lambda: None, TurnPlan(min_runs, seconds=0.0))) > 0


def test_collector_rests_during_a_turn_and_works_afterwards() -> None:
    during = []
    take_turn(lambda: during.append(gc.isenabled()), TurnPlan(min_runs=1, seconds=0.0))
    assert during == [True, True, False]
    assert gc.isenabled()


def test_collector_works_again_when_a_run_fails() -> None:
    calls = []

    def run() -> None:
        calls.append(1)
        if len(calls) > 2:
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        take_turn(run, TurnPlan(min_runs=1, seconds=0.0))
    assert gc.isenabled()


def test_turn_together_has_the_runs_of_every_session_and_their_joint_rate() -> None:
    runs = [Run(0.01), Run(0.01), Run(0.01)]
    with ThreadPoolExecutor(3) as threads:
        samples, runs_per_s = take_turn_together(runs, TurnPlan(min_runs=4, seconds=0.0), threads)
    assert len(samples) == 12
    assert min(samples) >= 10
    # Sleeping sessions do not hinder each other; one alone could finish 100 in a second.
    assert 120 < runs_per_s <= 300


def test_sessions_that_are_done_run_on_until_the_last_one_is() -> None:
    fast, slow = Run(0.001), Run(0.02)
    with ThreadPoolExecutor(2) as threads:
        samples, _ = take_turn_together([fast, slow], TurnPlan(min_runs=3, seconds=0.0), threads)
    assert len(samples) == 6
    assert slow.count >= 5
    assert fast.count > 20, "its later runs keep the machine busy and are not counted"


@pytest.mark.parametrize("fails_at", [0, 4])
def test_turn_together_fails_as_the_session_that_failed(fails_at) -> None:
    count = 0

    def fail() -> None:
        nonlocal count
        count += 1
        if count > fails_at:
            raise ValueError("out of order")

    with ThreadPoolExecutor(2) as threads, pytest.raises(ValueError, match="out of order"):
        take_turn_together([Run(0.001), fail], TurnPlan(min_runs=10, seconds=0.0), threads)
