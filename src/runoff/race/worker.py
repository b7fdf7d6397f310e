"""The process in which one candidate runs: open, compute, take turns. Started by `Contestant`, speaks `child.serve`.

Knows one candidate and its sessions; the rounds, the comparison and the decision are the parent's. Arrays travel as
.npz files.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from runoff.backends import table
from runoff.backends.protocol import Session
from runoff.child import serve
from runoff.errors import RuntimeRunError
from runoff.models.arrays import Array, read_npz, write_npz
from runoff.models.folder import read_folder
from runoff.race.candidates import Candidate
from runoff.race.inputs import take_rows
from runoff.race.record import thin
from runoff.race.timing import TurnPlan, results, take_turn, take_turn_together, warm_up

_T = TypeVar("_T")


class Worker:
    """The handlers of the process: the sessions, and the inputs of each batch size.

    A single session runs on the thread that answers, several at the same time, each on a thread of its own.
    """

    def __init__(self) -> None:
        self._sessions: tuple[Session, ...] = ()
        self._threads: ThreadPoolExecutor | None = None
        self._inputs: dict[int, dict[str, Array]] = {}

    def open(self, root: str, candidate: dict[str, Any]) -> Mapping[str, Any]:
        """Open the candidate's sessions; answers seconds and the facts of one."""
        wanted = msgspec.convert(candidate, Candidate)
        package = read_folder(Path(root)).package(wanted.package_id)
        started = time.perf_counter()
        backend, options = table.backend(wanted.backend), wanted.session_options()
        self._sessions = tuple(backend.open(package, options) for _ in range(wanted.sessions))
        load_s = time.perf_counter() - started
        if wanted.sessions > 1:
            self._threads = ThreadPoolExecutor(wanted.sessions)
        return {"load_s": load_s, "facts": dict(self._sessions[0].facts)}

    def compute(self, inputs: str, outputs: str, rows: int, batched: list[str]) -> Mapping[str, Any]:
        """Run the inputs of a file in chunks of `rows` and write the outputs, samples along axis 0.

        Several sessions share the chunks and run at the same time; each has at least one, if need be one again.
        """
        sessions, arrays, names = self._opened(), read_npz(Path(inputs)), frozenset(batched)
        total = next((len(array) for name, array in arrays.items() if name in names), rows)
        starts = list(range(0, total, rows))
        while len(starts) < len(sessions):
            starts += starts[: len(sessions) - len(starts)]

        def run(index: int) -> list[dict[str, Array]]:
            own = starts[index :: len(sessions)]
            return [sessions[index].run(take_rows(arrays, names, np.arange(at, at + rows))) for at in own]

        answers = self._each(run)
        # In the order of the starts: session i computed those at i, i + sessions, ...
        ordered = [answers[place % len(sessions)][place // len(sessions)] for place in range(len(starts))]
        chunks = ordered[: -(-total // rows)]
        joined = {name: np.concatenate([np.atleast_1d(chunk[name]) for chunk in chunks]) for name in chunks[0]}
        write_npz(Path(outputs), joined)
        return {}

    def first_run(self, inputs: str) -> Mapping[str, Any]:
        """Run once: the end of a cold start."""
        self._opened()[0].run(read_npz(Path(inputs)))
        return {}

    def prepare(self, batch: int, inputs: str, warmup_s: float) -> Mapping[str, Any]:
        """Load the inputs of one batch size and warm up with them."""
        sessions, arrays = self._opened(), read_npz(Path(inputs))
        self._inputs[batch] = arrays
        return {"runs": sum(self._each(lambda index: warm_up(lambda: sessions[index].run(arrays), warmup_s)))}

    def turn(self, batch: int, min_runs: int, seconds: float) -> Mapping[str, Any]:
        """Take one turn at a batch size; answers the samples in ms, thinned."""
        sessions, arrays, plan = self._opened(), self._inputs[batch], TurnPlan(min_runs, seconds)
        rate = None
        if self._threads is None:
            session = sessions[0]
            samples = take_turn(lambda: session.run(arrays), plan)
        else:
            samples, rate = take_turn_together(
                [partial(session.run, arrays) for session in sessions], plan, self._threads
            )
        median_ms = float(np.median(samples))
        return {"num_runs": len(samples), "median_ms": median_ms, "samples_ms": thin(samples), "runs_per_s": rate}

    def memory(self) -> Mapping[str, Any]:
        """Peak and present resident memory of this process in bytes."""
        return {"peak_bytes": _peak_memory_bytes()}

    def _opened(self) -> tuple[Session, ...]:
        if not self._sessions:
            raise RuntimeRunError("the worker was asked to run before it was asked to open")
        return self._sessions

    def _each(self, act: Callable[[int], _T]) -> list[_T]:
        """What `act` answers for the number of each session, at the same time where there are several."""
        if self._threads is None:
            return [act(0)]
        return results([self._threads.submit(act, index) for index in range(len(self._sessions))])


def _peak_memory_bytes() -> int:
    """The high-water mark of this process's resident memory.

    Linux carries `ru_maxrss` over from the process that started this one, so /proc is asked there.
    """
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    worker = Worker()
    serve(
        {
            "open": worker.open,
            "compute": worker.compute,
            "first_run": worker.first_run,
            "prepare": worker.prepare,
            "turn": worker.turn,
            "memory": worker.memory,
        }
    )
