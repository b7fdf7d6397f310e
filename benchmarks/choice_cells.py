"""What the benchmark of the choice finds about a model, and the file that keeps it. Measures nothing.

Every figure is of the second timing, which the decisions have not seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from runoff.models.folder import write_atomically
from runoff.race.fidelity import Level

CONTRACTS: tuple[Level, ...] = ("exact", "close", "bounded")
ORDERS = {"PyTorch first": "torch-fp32", "ONNX first": "onnx-fp32"}
"""The static orders of the field's guides as people follow them: the plain form at fp32, whatever is allowed."""
INSTALLS = ("torch", "onnx", "openvino")
"""Runtimes that are often the only one installed; the best candidate of each is what such a machine can have."""
ALLOWED_REGRET = 1.05


class Timed(msgspec.Struct, frozen=True):
    """A candidate with its latency."""

    candidate: str
    ms: float


class Cell(msgspec.Struct, frozen=True):
    """One batch size under one contract.

    Attributes:
        spread: the wider one of the pick's and the best one's.
        latencies_ms: of every candidate within the contract.
        orders: the static orders by name; they do not ask what the contract admits.
        installs: the best candidate within the contract of each runtime, by its id; the same as a static order that is
            allowed any precision, variant and format of its runtime.
    """

    batch: int
    contract: Level
    pick: Timed
    best: Timed
    spread: float
    latencies_ms: dict[str, float]
    orders: dict[str, Timed]
    installs: dict[str, Timed]

    @property
    def regret(self) -> float:
        """The pick's latency over the best one's."""
        return self.pick.ms / self.best.ms

    @property
    def holds(self) -> bool:
        """Whether the pick is within 5 % of the best, or within that timing's own spread where it is wider."""
        return self.regret <= max(ALLOWED_REGRET, 1 + self.spread)


class Starts(msgspec.Struct, frozen=True):
    """Process start to first output at batch 1, median seconds by candidate, and who was chosen for what.

    Attributes:
        picks: by contract, chosen for the objective `cold-start`.
        latency_picks: by contract, chosen for the objective `latency`.
    """

    picks: dict[Level, str]
    latency_picks: dict[Level, str]
    seconds: dict[str, float]


class Narrow(msgspec.Struct, frozen=True):
    """A candidate at 8 bits: its largest relative error, and why it is outside `bounded`, or None."""

    candidate: str
    max_rel: float
    outside: str | None


class ModelChoice(msgspec.Struct, frozen=True):
    """One model's figures.

    Attributes:
        failures: candidates and packages that could not compete, with the reason.
        seconds: how long each step of the benchmark took.
    """

    model: str
    facts: dict[str, str]
    raced_at: str
    threads: int
    cells: tuple[Cell, ...]
    starts: Starts
    narrow: tuple[Narrow, ...] = ()
    failures: dict[str, str] = {}
    seconds: dict[str, float] = {}


def read_choice(work: Path, name: str) -> ModelChoice | None:
    """The figures of a model, or None while there are none."""
    path = work / f"{name}.json"
    return msgspec.json.decode(path.read_bytes(), type=ModelChoice) if path.is_file() else None


def save_choice(work: Path, choice: ModelChoice) -> None:
    """Keep the figures of a model."""
    write_atomically(work / f"{choice.model}.json", msgspec.json.format(msgspec.json.encode(choice)) + b"\n")


def geometric_mean(ratios: Iterable[float]) -> float:
    """The geometric mean; NaN of nothing."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def order_ratio(cells: Sequence[Cell], order: str) -> float:
    """A static order's latency over the pick's, over some cells; NaN where it could not run."""
    return geometric_mean(cell.orders[order].ms / cell.pick.ms for cell in cells if order in cell.orders)


def install_ratio(cells: Sequence[Cell], backend: str) -> float:
    """The latency of the best that one runtime alone can give, over the pick's."""
    return geometric_mean(cell.installs[backend].ms / cell.pick.ms for cell in cells if backend in cell.installs)


def beats_orders(cells: Sequence[Cell]) -> bool:
    """Whether both static orders, at fp32 as people follow them, are over 5 % slower than the pick in the mean."""
    return all(order_ratio(cells, order) > ALLOWED_REGRET for order in ORDERS)


def beats_freed_orders(cells: Sequence[Cell]) -> bool:
    """The same against static orders that know the fastest precision and variant of their runtime beforehand."""
    return all(install_ratio(cells, package.partition("-")[0]) > ALLOWED_REGRET for package in ORDERS.values())
