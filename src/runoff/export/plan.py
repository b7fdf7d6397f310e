"""The format graph: which format leads to which, and the cheapest path from what is there to what is wanted.

Pure: knows no files, no runtime and no machine; what is installed is handed in.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence

import msgspec

from runoff.errors import ExportError
from runoff.export.conversions import STEPS, State, Step, state_name
from runoff.types import Precision


class Available(msgspec.Struct, frozen=True):
    """A package that a path may start from."""

    package_id: str
    format: str
    precision: Precision


class Plan(msgspec.Struct, frozen=True):
    """The package to start from and the steps to take, in order; no step when it is already there."""

    package_id: str
    steps: tuple[Step, ...]

    @property
    def cost(self) -> int:
        """The sum of the steps' costs."""
        return sum(step.cost for step in self.steps)


def plan(
    available: Sequence[Available],
    wanted: State,
    installed: Collection[str],
    steps: Sequence[Step] = STEPS,
) -> Plan:
    """The cheapest path from one of the packages to the wanted format at the wanted precision.

    Of equally cheap paths the one with fewer steps is taken, then the one whose package comes first.

    Args:
        available: packages to start from, the preferred one first.
        wanted: format and precision.
        installed: the distributions that are installed.
        steps: the edges of the graph.

    Raises:
        ExportError: no path; the message says which library is missing, or which formats can be reached.
    """
    usable = [step for step in steps if all(library in installed for library in step.libraries)]
    found = _cheapest(available, wanted, usable)
    if found is not None:
        return found
    blocked = _cheapest(available, wanted, steps)
    if blocked is not None:
        missing = {
            library: step.extra for step in blocked.steps for library in step.libraries if library not in installed
        }
        extras = ",".join(dict.fromkeys(missing.values()))
        raise ExportError(
            f"cannot make {state_name(wanted)} from {_list(available)}: missing {', '.join(missing)}",
            hint=f"pip install 'runoff[{extras}]'",
        )
    reached = reachable(available, usable)
    names = ", ".join(state_name(state) for state in sorted(reached)) or "nothing"
    raise ExportError(
        f"no conversion leads from {_list(available)} to {state_name(wanted)}",
        hint=f"what can be made from it here: {names}",
    )


def reachable(available: Iterable[Available], steps: Sequence[Step] = STEPS) -> set[State]:
    """Every format and precision that some path leads to, without those that are there already."""
    start = {(package.format, package.precision) for package in available}
    seen = set(start)
    pending = list(start)
    while pending:
        state = pending.pop()
        fresh = {step.result for step in steps if step.source == state} - seen
        seen |= fresh
        pending.extend(fresh)
    return seen - start


def _cheapest(available: Sequence[Available], wanted: State, steps: Sequence[Step]) -> Plan | None:
    """Dijkstra from all packages at once."""
    queue: list[tuple[int, int, int, State, tuple[Step, ...]]] = [
        (0, 0, rank, (package.format, package.precision), ()) for rank, package in enumerate(available)
    ]
    heapq.heapify(queue)
    done: set[State] = set()
    order = len(queue)
    origin = {rank: package.package_id for rank, package in enumerate(available)}
    while queue:
        cost, length, rank, state, path = heapq.heappop(queue)
        if state == wanted:
            return Plan(origin[rank], path)
        if state in done:
            continue
        done.add(state)
        for step in steps:
            if step.source == state and step.result not in done:
                origin[order] = origin[rank]
                heapq.heappush(queue, (cost + step.cost, length + 1, order, step.result, (*path, step)))
                order += 1
    return None


def _list(available: Sequence[Available]) -> str:
    return ", ".join(state_name((package.format, package.precision)) for package in available) or "nothing"
