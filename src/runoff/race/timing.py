"""How a session is timed: warm up until stable, then runs one after the other, numpy in, numpy out.

Knows only functions to call. Latencies are wall-clock, in ms, from inputs handed over to outputs received.
"""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager
from typing import TypeVar

import msgspec

_T = TypeVar("_T")
_WINDOW = 5
_STABLE = 0.05
_REWARM_RUNS = 2
_MAX_RUNS = 20_000


class TurnPlan(msgspec.Struct, frozen=True):
    """How long one turn lasts.

    Attributes:
        min_runs: at least this many timed runs, however slow.
        seconds: and for at least this long.
        warmup_s: at most this long for the first warm-up.
    """

    min_runs: int = 5
    seconds: float = 0.25
    warmup_s: float = 5.0


def warm_up(run: Callable[[], object], limit_s: float) -> int:
    """Run until the median of the last five runs is within 5 % of that of the five before.

    Returns:
        The number of runs; warm-up also ends after `limit_s` seconds, but never before two runs.
    """
    times: list[float] = []
    started = time.perf_counter()
    while True:
        times.append(_timed_ms(run))
        if len(times) >= 2 * _WINDOW:
            last = statistics.median(times[-_WINDOW:])
            before = statistics.median(times[-2 * _WINDOW : -_WINDOW])
            if abs(last - before) <= _STABLE * before:
                return len(times)
        if len(times) > 1 and time.perf_counter() - started > limit_s:
            return len(times)


def take_turn(run: Callable[[], object], plan: TurnPlan) -> list[float]:
    """Latencies of one turn in ms, after two runs that only wake the caches and the threads.

    The garbage collector rests meanwhile: its pauses belong to this process, not to the runtime.
    """
    for _ in range(_REWARM_RUNS):
        run()
    with _without_collector():
        return _timed_runs(run, plan)


def take_turn_together(
    runs: Sequence[Callable[[], object]], plan: TurnPlan, threads: Executor
) -> tuple[list[float], float]:
    """One turn of several sessions at the same time, each called from a thread of its own.

    They start together, and who has its runs first goes on, untimed, until the last one has: a session that finds the
    machine to itself at the end would flatter the rate.

    Args:
        runs: what each session does.
        plan: of each session.
        threads: at least one for each of `runs`.

    Returns:
        The latencies of all in ms, and the runs finished in a second, summed over the sessions.
    """
    start = threading.Barrier(len(runs))
    left = [len(runs)]
    is_over = threading.Event()
    lock = threading.Lock()

    def take(run: Callable[[], object]) -> tuple[list[float], float]:
        try:
            for _ in range(_REWARM_RUNS):
                run()
            start.wait()
            started = time.perf_counter()
            samples = _timed_runs(run, plan)
            rate = len(samples) / (time.perf_counter() - started)
            with lock:
                left[0] -= 1
                if left[0] == 0:
                    is_over.set()
            while not is_over.is_set():
                run()
        except BaseException:
            is_over.set()
            start.abort()
            raise
        return samples, rate

    with _without_collector():
        turns = results([threads.submit(take, run) for run in runs])
    return [sample for samples, _ in turns for sample in samples], sum(rate for _, rate in turns)


def results(futures: Sequence[Future[_T]]) -> list[_T]:
    """What every one answered, after all have ended; the first error that is not another one's echo is raised."""
    wait(futures)
    errors = [error for future in futures if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]


def _timed_runs(run: Callable[[], object], plan: TurnPlan) -> list[float]:
    samples: list[float] = []
    end = time.perf_counter() + plan.seconds
    while len(samples) < _MAX_RUNS and (len(samples) < plan.min_runs or time.perf_counter() < end):
        samples.append(_timed_ms(run))
    return samples


@contextmanager
def _without_collector() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _timed_ms(run: Callable[[], object]) -> float:
    started = time.perf_counter_ns()
    run()
    # A clock may not tick during a very short run, and figures are divided by later.
    return max(time.perf_counter_ns() - started, 1) / 1e6
