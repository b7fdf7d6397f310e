"""What a race is asked to do, and what it says while it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import msgspec

from runoff.race.fidelity import Contract
from runoff.race.wish import Objective, Wish
from runoff.types import CPU, Device, Precision


class RaceOptions(msgspec.Struct, frozen=True):
    """How to race a model.

    Attributes:
        objective: what the winner is best at.
        contract: what every candidate must keep to.
        max_memory_bytes: resident memory at which a candidate is stopped and disqualified.
        batches: batch sizes to time; the first one decides the objective `latency`.
        num_threads: thread counts to enter each variant with; None means the usable cores, and 1.
        sessions: for `throughput`: how many sessions in one process the leading candidates are timed with as well; None
            means 2, 4, ... up to the usable cores, 1 leaves it at one.
        device: where all candidates run.
        candidates: ids that compete, with `@threads` or for all of them; None means all but the opt-in ones.
        backends: backends that compete; None means all.
        precisions: precisions that compete, and whose packages are made first; None means all that are there, and
            packages at fp32 are made.
        search_s: seconds for the search of layers to keep, for each quantised package that is outside the contract.
        data: an .npz of inputs by name to compare on; None takes the model's evaluation data, else a generator.
        labels: an .npy of one integer label a row of `data`.
        samples: at most this many rows are compared.
        rounds: turns of each candidate at each batch size.
        max_rounds: while the leaders' spread is over the noise floor, rounds go on up to this many.
        turn_s, min_runs, warmup_s: see `TurnPlan`.
        force: measure again even where a record holds.
    """

    objective: Objective = "latency"
    contract: Contract = Contract()
    max_memory_bytes: int | None = None
    batches: tuple[int, ...] = (1,)
    num_threads: tuple[int, ...] | None = None
    sessions: tuple[int, ...] | None = None
    device: Device = CPU
    candidates: tuple[str, ...] | None = None
    backends: tuple[str, ...] | None = None
    precisions: tuple[Precision, ...] | None = None
    search_s: float = 60.0
    data: Path | None = None
    labels: Path | None = None
    samples: int = 512
    rounds: int = 7
    max_rounds: int = 15
    turn_s: float = 0.25
    min_runs: int = 5
    warmup_s: float = 5.0
    force: bool = False

    def wish(self) -> Wish:
        """The wish that the race's own decision is made under."""
        return Wish(
            backends=(),
            device=self.device,
            objective=self.objective,
            contract=self.contract,
            max_memory_bytes=self.max_memory_bytes,
        )


class Event(msgspec.Struct, frozen=True):
    """A step of the race: `done` of `total` steps of a stage, and what is being done now.

    Stages in order: `wait`, `make`, `check`, `time`, `done`.
    """

    stage: str
    detail: str
    done: int = 0
    total: int = 0


Listener: TypeAlias = Callable[[Event], None]


def silent(event: Event) -> None:
    """The listener of a caller who does not want to know."""
