"""Candidates: which packages compete, and in which ways each is opened.

A candidate is a package with session options: a variant of its backend (eager, compiled, a precision hint), a number
of threads and, where throughput is raced, a number of sessions in one process. Knows the manifest and the table of
backends; opens nothing and knows no runtime.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from runoff.backends import table
from runoff.backends.protocol import PrecisionHint, SessionOptions
from runoff.backends.row import BackendRow, Variant
from runoff.errors import unknown_name
from runoff.models.manifest import PackageEntry
from runoff.types import CPU, Device, Precision

_SYSTEMS = {"darwin": "macOS", "win32": "Windows", "linux": "Linux"}


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A package with session options that competes in a race.

    Attributes:
        id: `<package>[+variant][@threads[xsessions]]`, such as `torch-fp32+compile@2`, or `onnx-fp32@1x4` for four
            sessions with one thread each.
        precision: what it computes in as far as is known before it runs: a `Precision`, or `default` for the runtime's
            own choice.
        num_threads: of each session; None leaves it at the cores that this process may use.
        sessions: how many of them run at the same time in one process, each for a thread of its own.
    """

    id: str
    package_id: str
    backend: str
    variant: str
    precision: str
    num_threads: int | None
    device: Device = CPU
    options: dict[str, Any] = {}
    sessions: int = 1

    @property
    def way(self) -> str:
        """The id without threads and sessions: the package and the way it is opened."""
        return self.id.partition("@")[0]

    def session_options(self) -> SessionOptions:
        """How to open the package as this candidate, each of its sessions alike."""
        hint: PrecisionHint = "default" if self.precision == "default" else Precision(self.precision)
        return SessionOptions(self.device, self.num_threads, hint, self.options)


def make_candidate(
    entry: PackageEntry, row: BackendRow, variant: Variant, num_threads: int | None = None, device: Device = CPU
) -> Candidate:
    """The candidate that opens a package of `row` in the way of `variant`."""
    suffix = f"+{variant.name}" if variant.name else ""
    where = "" if device == CPU else f"#{device}"
    threads = f"@{num_threads}" if num_threads is not None else ""
    return Candidate(
        id=f"{entry.id}{suffix}{where}{threads}",
        package_id=entry.id,
        backend=row.id,
        variant=variant.name,
        precision=variant.precision if variant.precision is not None else entry.precision,
        num_threads=num_threads,
        device=device,
        options=dict(variant.options),
    )


def with_sessions(candidate: Candidate, sessions: int, num_threads: int) -> Candidate:
    """The same way of opening a package, with several sessions in one process and so many threads for each."""
    name = f"{candidate.way}@{num_threads}x{sessions}"
    return msgspec.structs.replace(candidate, id=name, num_threads=num_threads, sessions=sessions)


def variants_of(entry: PackageEntry, row: BackendRow) -> tuple[Variant, ...]:
    """The variants that make sense for a package: hints lower an fp32 package, or what is not quantised of another."""
    quantised = entry.precision in (Precision.INT8, Precision.INT4)
    return tuple(
        variant
        for variant in row.variants
        if (entry.precision is Precision.FP32 or variant.precision is None or (quantised and variant.lowers_rest))
        and (variant.formats is None or entry.format in variant.formats)
    )


def wrong_platform(row: BackendRow) -> str | None:
    """Why a backend cannot run on this operating system, or None."""
    if row.runs_on(sys.platform):
        return None
    return f"{row.title} runs on {' and '.join(_SYSTEMS.get(name, name) for name in row.platforms)} only"


def list_candidates(
    packages: Iterable[PackageEntry],
    num_threads: Sequence[int | None],
    device: Device = CPU,
    only: Sequence[str] | None = None,
) -> list[Candidate]:
    """Every candidate of the packages, for each thread count, in the order of the table.

    Args:
        packages: entries of a manifest.
        num_threads: thread counts to enter each variant with.
        device: where all of them run.
        only: when given, the ids that compete, such as `torch-fp32+compile`, or one of them with its `@threads`.

    Raises:
        UnknownName: `only` names a candidate that does not exist; the message lists those that do.
    """
    made = [
        make_candidate(entry, row, variant, threads, device)
        for row in table.rows().values()
        for entry in packages
        if entry.backend == row.id
        for variant in variants_of(entry, row)
        for threads in num_threads
        if (only is not None or not variant.opt_in) and (variant.devices is None or device.kind in variant.devices)
    ]
    if only is None:
        return made
    known = {candidate.way: None for candidate in made}
    full = {candidate.id for candidate in made}
    for name in only:
        if name not in known and name not in full:
            raise unknown_name("candidate", name, list(known))
    return [candidate for candidate in made if {candidate.id, candidate.way} & set(only)]
