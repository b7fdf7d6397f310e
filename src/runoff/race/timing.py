"""How a session is timed: warm up until stable, then runs one after the other, numpy in, numpy out.

Knows only a function to call. Latencies are wall-clock, in ms, from inputs handed over to outputs received.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

import msgspec

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
    samples: list[float] = []
    for _ in range(_REWARM_RUNS):
        run()
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + plan.seconds
        while len(samples) < _MAX_RUNS and (len(samples) < plan.min_runs or time.perf_counter() < end):
            samples.append(_timed_ms(run))
    finally:
        if collecting:
            gc.enable()
    return samples


def _timed_ms(run: Callable[[], object]) -> float:
    started = time.perf_counter_ns()
    run()
    # A clock may not tick during a very short run, and figures are divided by later.
    return max(time.perf_counter_ns() - started, 1) / 1e6
