"""What a caller asks of a decision: backends, precision, device, batch, objective, contract; as values, and in words.

Knows the names that there are; knows no package, no record and no rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, TypeVar

import msgspec

from runoff.backends import table
from runoff.errors import UnknownName, unknown_name
from runoff.race.fidelity import Contract
from runoff.types import CPU, Device, Precision

Objective: TypeAlias = Literal["latency", "throughput", "cold-start", "memory", "size"]
OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput", "cold-start", "memory", "size")
UNITS: dict[Objective, str] = {
    "latency": "ms",
    "throughput": "items/s",
    "cold-start": "s",
    "memory": "MiB",
    "size": "MiB",
}
_DEVICES = ("cpu", "cuda", "gpu", "npu", "mps")
_Name = TypeVar("_Name", bound=str)


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


def make_wish(
    *,
    backend: str | Sequence[str] | None = None,
    precision: str | Sequence[str] | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    num_threads: int | None = None,
    objective: str = "latency",
    contract: Contract | None = None,
) -> Wish:
    """Read the caller's words; see `AutoModel.from_pretrained`.

    Raises:
        UnknownName: one of them does not exist; the message lists the known ones.
    """
    precisions = tuple(str(name) for name in _listed(precision))
    known = [*Precision, "default"]
    for name in precisions:
        if name not in known:
            raise unknown_name("precision", name, [str(value) for value in known])
    if objective not in OBJECTIVES:
        raise unknown_name("objective", objective, list(OBJECTIVES))
    for name, number in (("batch_size", batch_size), ("num_threads", num_threads)):
        if number is not None and number < 1:
            raise UnknownName(f"{name} is {number}, expected a number from 1")
    return Wish(
        backends=tuple(table.row(name).id for name in _listed(backend)),
        precisions=precisions,
        device=parse_device(device) if device else CPU,
        batch_size=batch_size,
        num_threads=num_threads,
        objective=objective,
        contract=contract or Contract(),
    )


def parse_device(text: str) -> Device:
    """Read a device such as `cpu` or `cuda:1`.

    Raises:
        UnknownName: there is no such kind of device.
    """
    kind, colon, index = text.lower().partition(":")
    if kind not in _DEVICES or (colon and not index.isdigit()):
        raise unknown_name("device", text, list(_DEVICES))
    return Device(kind, int(index) if index else None)


def _listed(value: _Name | Sequence[_Name] | None) -> Sequence[_Name]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value
