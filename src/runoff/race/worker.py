"""The process in which one candidate runs: open, compute, take turns. Started by `Contestant`, speaks `child.serve`.

Knows one candidate; the rounds, the comparison and the decision are the parent's. Arrays travel as .npz files.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from runoff.race.timing import TurnPlan, take_turn, warm_up


class Worker:
    """The handlers of the process: one session, and the inputs of each batch size."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._inputs: dict[int, dict[str, Array]] = {}

    def open(self, root: str, candidate: dict[str, Any]) -> Mapping[str, Any]:
        """Open the candidate; answers seconds and the session's facts."""
        wanted = msgspec.convert(candidate, Candidate)
        package = read_folder(Path(root)).package(wanted.package_id)
        started = time.perf_counter()
        self._session = table.backend(wanted.backend).open(package, wanted.session_options())
        return {"load_s": time.perf_counter() - started, "facts": dict(self._session.facts)}

    def compute(self, inputs: str, outputs: str, rows: int, batched: list[str]) -> Mapping[str, Any]:
        """Run the inputs of a file in chunks of `rows` and write the outputs, samples along axis 0."""
        session, arrays, names = self._opened(), read_npz(Path(inputs)), frozenset(batched)
        total = next((len(array) for name, array in arrays.items() if name in names), rows)
        chunks = [
            session.run(take_rows(arrays, names, np.arange(start, start + rows))) for start in range(0, total, rows)
        ]
        joined = {name: np.concatenate([np.atleast_1d(chunk[name]) for chunk in chunks]) for name in chunks[0]}
        write_npz(Path(outputs), joined)
        return {}

    def first_run(self, inputs: str) -> Mapping[str, Any]:
        """Run once: the end of a cold start."""
        self._opened().run(read_npz(Path(inputs)))
        return {}

    def prepare(self, batch: int, inputs: str, warmup_s: float) -> Mapping[str, Any]:
        """Load the inputs of one batch size and warm up with them."""
        session, arrays = self._opened(), read_npz(Path(inputs))
        self._inputs[batch] = arrays
        return {"runs": warm_up(lambda: session.run(arrays), warmup_s)}

    def turn(self, batch: int, min_runs: int, seconds: float) -> Mapping[str, Any]:
        """Take one turn at a batch size; answers the samples in ms, thinned."""
        session, arrays = self._opened(), self._inputs[batch]
        samples = take_turn(lambda: session.run(arrays), TurnPlan(min_runs, seconds))
        return {"num_runs": len(samples), "median_ms": float(np.median(samples)), "samples_ms": thin(samples)}

    def memory(self) -> Mapping[str, Any]:
        """Peak and present resident memory of this process in bytes."""
        return {"peak_bytes": _peak_memory_bytes()}

    def _opened(self) -> Session:
        if self._session is None:
            raise RuntimeRunError("the worker was asked to run before it was asked to open")
        return self._session


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
