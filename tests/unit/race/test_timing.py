import gc
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.race.timing import TurnPlan, take_turn, warm_up


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
