"""How the benchmarks speak: progress, the machine in a line, and sections of pages between two comments."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from runoff.environment.libraries import LIBRARIES
from runoff.race.options import Event, Listener


def say(line: str) -> None:
    """One line of progress that the next one replaces, or a line with the time where nobody looks on."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
    else:
        print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def listener(name: str) -> Listener:
    """Tells of the steps of a race."""

    def show(event: Event) -> None:
        say(f"{name}: {event.stage}: {event.detail}")

    return show


def replace_section(page: str, begin: str, end: str, lines: Iterable[str]) -> str:
    """A page with other lines between two markers.

    Raises:
        ValueError: one of the markers is not there.
    """
    head, found, rest = page.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        message = f"the page has no section between {begin!r} and {end!r}"
        raise ValueError(message)
    return "\n".join((f"{head}{begin}", "", *lines, "", f"{end}{tail}"))


def machine_line(facts: Sequence[Mapping[str, str]], threads: Iterable[int], days: Iterable[str]) -> str:
    """Processor, threads, days and versions of some measurements; where they differ, every value is told."""
    cpus = sorted({values.get("cpu.model", "unknown CPU") for values in facts})
    counts = sorted(set(threads))
    dates = sorted(set(days))
    span = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    known = {library.id for library in LIBRARIES}
    versions = []
    for name in sorted({name for values in facts for name in values} & known):
        values = sorted({value for fact in facts if (value := fact.get(name))})
        versions.append(f"{name} {'/'.join(values)}")
    word = "thread" if counts == [1] else "threads"
    return f"{', '.join(cpus)}, {'/'.join(map(str, counts))} {word}, {span}; {', '.join(versions)}."
