"""The timing: candidates take turns in rounds, so that noise hits all alike, in heats that fit in memory.

Knows contestants, the ledger and the plan of a turn; fidelity is settled before. The best of a heat runs again in
the next one, so that all figures stand beside one that was measured at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from runoff.models.folder import ModelFolder
from runoff.models.manifest import PackageEntry
from runoff.race.check import FAILURES, disqualified
from runoff.race.contestant import Contestant
from runoff.race.inputs import RaceInputs, write_batch
from runoff.race.ledger import Ledger, whole_rounds, without_turns
from runoff.race.options import Event, Listener, RaceOptions
from runoff.race.rank import NOISE_FLOOR
from runoff.race.record import BatchTiming, Bounds, Entrant, Turn
from runoff.race.timing import TurnPlan

RETIRE_AFTER_ROUNDS = 2
RETIRE_FACTOR = 2.5
"""After two rounds a candidate this much slower than the best of its precision at every batch size stops."""
_CONTENDER_FACTOR = 1.25
"""While one of the candidates this close to the best is noisy, rounds go on."""


@dataclass(slots=True)
class Stable:
    """The processes that are alive, within a budget of memory."""

    budget_bytes: int
    members: dict[str, Contestant] = field(default_factory=dict)
    used_bytes: int = 0

    def keep(self, contestant: Contestant, entrant: Entrant) -> bool:
        """Keep a process alive if it fits beside the others, else end it; whether it was kept."""
        if not self.fits(entrant):
            contestant.close()
            return False
        self.members[contestant.candidate.id] = contestant
        self.used_bytes += entrant.peak_memory_bytes or 0
        return True

    def fits(self, *entrants: Entrant) -> bool:
        """Whether the processes of these entrants fit beside the others; a single one always may try."""
        needed = sum(entrant.peak_memory_bytes or 0 for entrant in entrants)
        return len(self.members) + len(entrants) == 1 or self.used_bytes + needed <= self.budget_bytes

    def close(self) -> None:
        """End every process."""
        for contestant in self.members.values():
            contestant.close()
        self.members.clear()
        self.used_bytes = 0


@dataclass(slots=True)
class Timer:
    """Runs the heats and rounds of one race."""

    folder: ModelFolder
    options: RaceOptions
    inputs: RaceInputs
    work: Path
    ledger: Ledger
    listener: Listener
    bounds: Bounds
    open_entrant: Callable[[Entrant], Contestant]

    def run(self, ids: Sequence[str], stable: Stable) -> None:
        """Time the candidates; the ledger holds their turns afterwards."""
        waiting = list(ids)
        while waiting:
            heat = [name for name in waiting if name in stable.members]
            heat += self._fill([name for name in waiting if name not in heat], stable)
            waiting = [name for name in waiting if name not in heat]
            self._run_heat(heat, stable)
            best = self._best(heat)
            stable.close()
            # Where the best does not fit beside the next one, that one runs without it.
            if waiting and best is not None and stable.fits(self._entrant(best), self._entrant(waiting[0])):
                waiting.insert(0, best)
                self._forget_turns(best)

    def _fill(self, waiting: Sequence[str], stable: Stable) -> list[str]:
        """Open waiting candidates while they fit; those that fail are settled as well."""
        done: list[str] = []
        for name in waiting:
            entrant = self._entrant(name)
            if not stable.fits(entrant):
                break
            try:
                stable.keep(self.open_entrant(entrant), entrant)
            except FAILURES as error:
                self._fail(name, error)
            done.append(name)
        return done

    def _run_heat(self, ids: Sequence[str], stable: Stable) -> None:
        names = [name for name in ids if name in stable.members]
        for name in list(names):
            for batch in self._batches(name):
                if name in names and not self._try(name, stable, self._prepare, batch):
                    names.remove(name)
        number = min((rounds_done(self._entrant(name), self._batches(name)) for name in names), default=0)
        for name in names:
            # It takes turns now, whatever it was retired for at other batch sizes.
            begun = whole_rounds(self._entrant(name), number, self._batches(name))
            self.ledger.put(msgspec.structs.replace(begun, retired=None))
        while names and number < self._limit(names, number):
            self.listener(Event("time", f"round {number + 1}", number, self._limit(names, number)))
            order = names[number % len(names) :] + names[: number % len(names)]
            for name in order:
                for batch in self._batches(name):
                    if name in names and not self._try(name, stable, self._turn, batch, number):
                        names.remove(name)
            number += 1
            names = self._retire(names, stable, number)

    def _try(self, name: str, stable: Stable, action: Callable[..., None], *arguments: int) -> bool:
        try:
            action(stable.members[name], *arguments)
        except FAILURES as error:
            stable.members.pop(name).close()
            self._fail(name, error)
            return False
        return True

    def _prepare(self, contestant: Contestant, batch: int) -> None:
        self.listener(Event("time", f"warming up {contestant.candidate.id}"))
        path = self.work / f"timed-{batch}.npz"
        if not path.exists():
            write_batch(self.inputs, batch, path)
        contestant.prepare(batch, path, self.options.warmup_s)

    def _turn(self, contestant: Contestant, batch: int, number: int) -> None:
        plan = TurnPlan(self.options.min_runs, self.options.turn_s)
        turn = contestant.turn(batch, number, plan)
        self.ledger.put(_with_turn(self._entrant(contestant.candidate.id), batch, turn))

    def _retire(self, names: list[str], stable: Stable, number: int) -> list[str]:
        """Those that go on; the others stop taking turns, with the reason in the record."""
        if number < RETIRE_AFTER_ROUNDS or self.options.objective not in ("latency", "throughput"):
            return names
        slower = {name: min((self._behind(name, b, names) for b in self._batches(name)), default=1.0) for name in names}
        for name, ratio in slower.items():
            if ratio > RETIRE_FACTOR:
                reason = f"retired after {number} rounds: {ratio:.1f} times slower than the best of its precision"
                self.ledger.put(msgspec.structs.replace(self._entrant(name), retired=reason))
                stable.members.pop(name).close()
        return [name for name in names if slower[name] <= RETIRE_FACTOR]

    def _limit(self, names: Sequence[str], number: int) -> int:
        """Rounds to run: more than asked for while a contender's figure is still noisy."""
        if number < self.options.rounds:
            return self.options.rounds
        for name in names:
            for batch in self._batches(name):
                timing = self._entrant(name).timing(batch)
                is_noisy = timing is not None and timing.spread > NOISE_FLOOR
                if is_noisy and self._behind(name, batch, names) <= _CONTENDER_FACTOR:
                    return self.options.max_rounds
        return self.options.rounds

    def _behind(self, name: str, batch: int, names: Sequence[str]) -> float:
        """How many times slower a candidate is than the best of those that run at its precision, from 1 on.

        A caller may ask for a precision or a stricter contract, so the race is settled within each.
        """
        runs_at = self._entrant(name).runs_at
        peers = [self._pace_ms(peer, batch) for peer in names if self._entrant(peer).runs_at == runs_at]
        best = min(peers)
        return self._pace_ms(name, batch) / best if best < math.inf else 1.0

    def _best(self, names: Sequence[str]) -> str | None:
        timed = [name for name in names if self._entrant(name).timing(self.options.batches[0])]
        return min(timed, key=lambda name: self._pace_ms(name, self.options.batches[0]), default=None)

    def _batches(self, name: str) -> tuple[int, ...]:
        entry = self.folder.package(self._entrant(name).candidate.package_id).entry
        return batches_of(entry, self.options)

    def _pace_ms(self, name: str, batch: int) -> float:
        timing = self._entrant(name).timing(batch)
        return timing.pace_ms if timing else math.inf

    def _forget_turns(self, name: str) -> None:
        self.ledger.put(without_turns(self._entrant(name), self._batches(name)))

    def _fail(self, name: str, error: Exception) -> None:
        self.ledger.put(disqualified(self._entrant(name), error, self.bounds))

    def _entrant(self, name: str) -> Entrant:
        found = self.ledger.record.entrant(name)
        if found is None:
            message = f"candidate {name!r} is not in the ledger"
            raise KeyError(message)
        return found


def batches_of(entry: PackageEntry, options: RaceOptions) -> tuple[int, ...]:
    """The batch sizes of a race that a package can be timed at."""
    if entry.batch == "dynamic":
        return options.batches
    return tuple(batch for batch in options.batches if batch == entry.batch)


def rounds_done(entrant: Entrant, batches: Sequence[int]) -> int:
    """How many rounds an entrant has finished at every one of these batch sizes."""
    return min((len(timing.turns) if (timing := entrant.timing(batch)) else 0 for batch in batches), default=0)


def _with_turn(entrant: Entrant, batch: int, turn: Turn) -> Entrant:
    old = next((timing for timing in entrant.timings if timing.batch == batch), BatchTiming(batch, ()))
    new = BatchTiming(batch, (*old.turns, turn))
    others = tuple(timing for timing in entrant.timings if timing.batch != batch)
    return msgspec.structs.replace(entrant, timings=tuple(sorted((*others, new), key=lambda timing: timing.batch)))
