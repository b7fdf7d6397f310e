"""What a caller asks of a decision: backends, precision, device, batch, objective, contract.

Plain values; knows no package, no record and no rule.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from runoff.race.fidelity import Contract
from runoff.types import CPU, Device

Objective: TypeAlias = Literal["latency", "throughput", "cold-start", "memory", "size"]
OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput", "cold-start", "memory", "size")
UNITS: dict[Objective, str] = {
    "latency": "ms",
    "throughput": "items/s",
    "cold-start": "s",
    "memory": "MiB",
    "size": "MiB",
}


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the caller asked for; obeyed or refused.

    Attributes:
        backends, precisions: ordered: an earlier one wins over a faster later one; empty admits all.
        batch_size: rows per `run`; None leaves it at the first one that was raced.
    """

    backends: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    device: Device = CPU
    batch_size: int | None = None
    num_threads: int | None = None
    objective: Objective = "latency"
    contract: Contract = Contract()
    max_memory_bytes: int | None = None
