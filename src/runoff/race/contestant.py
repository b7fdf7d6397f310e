"""One candidate in its own process: typed calls on top of `Child`, failures as words.

Knows the worker's operations; what to do with a failure is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from runoff.child import Child
from runoff.models.folder import Package
from runoff.race.candidates import Candidate
from runoff.race.record import Bounds, Turn
from runoff.race.timing import TurnPlan


class Contestant:
    """An isolated process with one candidate opened in it; a context manager.

    Every method raises ChildFailed when the process crashed, hung or used too much memory, and RemoteError when
    the runtime refused.
    """

    def __init__(self, package: Package, candidate: Candidate, bounds: Bounds) -> None:
        self.candidate = candidate
        self._package = package
        self._timeout_s = bounds.silence_s
        self._child = Child("runoff.race.worker", max_memory_bytes=bounds.memory_bytes)

    @property
    def started_s(self) -> float:
        """When the process was started, by `time.perf_counter`."""
        return self._child.started_s

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    def open(self) -> tuple[float, dict[str, Any]]:
        """Open every session of the candidate: seconds, and the facts of one."""
        answer = self._call(
            "open", root=str(self._package.root.resolve()), candidate=msgspec.to_builtins(self.candidate)
        )
        return answer["load_s"], answer["facts"]

    def first_run(self, inputs: Path) -> None:
        """Run once."""
        self._call("first_run", inputs=str(inputs))

    def compute(self, inputs: Path, outputs: Path, rows: int, batched: Iterable[str]) -> None:
        """Run every row of the batched inputs of a file, `rows` at a time, and write the outputs to another."""
        self._call("compute", inputs=str(inputs), outputs=str(outputs), rows=rows, batched=sorted(batched))

    def prepare(self, batch: int, inputs: Path, warmup_s: float) -> None:
        """Load the inputs of a batch size and warm up."""
        self._call("prepare", batch=batch, inputs=str(inputs), warmup_s=warmup_s)

    def turn(self, batch: int, number: int, plan: TurnPlan) -> Turn:
        """Take one turn."""
        answer = self._call("turn", batch=batch, min_runs=plan.min_runs, seconds=plan.seconds)
        samples = tuple(answer["samples_ms"])
        return Turn(number, answer["num_runs"], answer["median_ms"], samples, answer["runs_per_s"])

    def peak_memory_bytes(self) -> int:
        """The high-water mark of the process's resident memory."""
        return int(self._call("memory")["peak_bytes"])

    def close(self) -> None:
        """End the process. Twice is fine."""
        self._child.close()

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, op: str, **arguments: Any) -> dict[str, Any]:
        return self._child.call(op, self._timeout_s, **arguments)
