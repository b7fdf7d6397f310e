"""Is the measured choice the right one? Runoff's pick beside every candidate and beside static orders.

    python benchmarks/choice.py --work build/choice [--models mlp,minilm,...] [--precisions fp32,bf16,int8]
    python benchmarks/choice.py --work build/choice --write

For each reference model (random weights) one race at batch 1 and 8 makes the decisions under the contracts `exact`,
`close` and `bounded`. A second race, in new processes, times all candidates again, and every pick is held against the
best candidate within its contract *of that second timing*: `regret` is pick / best. "PyTorch first" and "ONNX first"
are the static orders of the field's guides: eager PyTorch and ONNX Runtime at fp32. Beside them stands the best that
an installation of one runtime alone could have had. Last, cold starts are timed in turns. The figures are kept in the
folder `--work` after each step: a run that was killed goes on where it was. `--write` puts them into docs/choosing.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from choice_cells import (
    CONTRACTS,
    INSTALLS,
    ORDERS,
    Cell,
    ModelChoice,
    Narrow,
    Starts,
    Timed,
    read_choice,
    save_choice,
)
from choice_table import print_choice, print_summary, write_page
from output import listener, say
from reference_models import MODELS, model_folder
from runoff.environment.describe import Environment, describe_environment
from runoff.models.folder import ModelFolder, read_folder, write_atomically
from runoff.race.api import race_model
from runoff.race.contestant import Contestant
from runoff.race.decide import Decision, Objective, Wish, decide, outside_contract
from runoff.race.fidelity import Contract, Level
from runoff.race.inputs import find_inputs, write_batch
from runoff.race.options import RaceOptions
from runoff.race.record import Bounds, Entrant, Record, part_path, read_record, record_path
from runoff.types import Precision

_START_BOUNDS = Bounds(memory_bytes=2**40, silence_s=600.0)


def measure(name: str, arguments: argparse.Namespace, environment: Environment) -> ModelChoice:
    """Race, decide, time again, start each in turns, compare."""
    folder = model_folder(arguments.work, name)
    options = race_options(arguments)
    started = time.perf_counter()
    first = first_race(folder, options, arguments.work / f"{name}.first.json", environment)
    decided = time.perf_counter()
    folder = read_folder(folder.root)
    second = second_race(folder, options, first, environment)
    timed = time.perf_counter()
    decisions = {
        (batch, level): _decide(folder, environment, first, level, batch=batch)
        for batch in options.batches
        for level in CONTRACTS
    }
    cells = [make_cell(batch, level, decision, second) for (batch, level), decision in decisions.items()]
    chosen = {
        level: _decide(folder, environment, first, level, objective="cold-start").require().id for level in CONTRACTS
    }
    quickest = {level: decisions[options.batches[0], level].require().id for level in CONTRACTS}
    rivals = {*chosen.values(), *quickest.values(), *_plain((*ORDERS.values(), "openvino-fp32"), first)}
    say(f"{name}: cold starts of {len(rivals)} candidates")
    starts = Starts(chosen, quickest, time_starts(folder, options, first, sorted(rivals), arguments.starts))
    choice = ModelChoice(
        model=name,
        facts=second.facts,
        raced_at=second.raced_at,
        threads=arguments.threads,
        cells=tuple(cells),
        starts=starts,
        narrow=tuple(narrow_candidates(folder, first)),
        failures={**first.unmade, **{e.candidate.id: e.failure for e in first.entrants if e.failure}},
        seconds={"race": decided - started, "again": timed - decided, "starts": time.perf_counter() - timed},
    )
    save_choice(arguments.work, choice)
    return choice


def race_options(arguments: argparse.Namespace) -> RaceOptions:
    """The race that decides: as users run it, with fewer runs a turn, so that large models end the same day."""
    return RaceOptions(
        batches=tuple(int(batch) for batch in arguments.batches.split(",")),
        backends=tuple(arguments.backends.split(",")),
        precisions=tuple(Precision(name) for name in arguments.precisions.split(",")),
        num_threads=(arguments.threads,),
        rounds=arguments.rounds,
        max_rounds=2 * arguments.rounds,
        turn_s=0.3,
        min_runs=2,
        warmup_s=arguments.warmup_s,
        samples=16,
        search_s=arguments.search_s,
    )


def first_race(folder: ModelFolder, options: RaceOptions, path: Path, environment: Environment) -> Record:
    """The race that decides; its record is kept aside, since the second one takes its place in the folder."""
    known = read_record(path)
    if known is not None and known.fingerprint == environment.fingerprint:
        return known
    record = race_model(folder.root, options, listener(folder.manifest.name)).record
    write_atomically(path, msgspec.json.encode(record))
    return record


def second_race(folder: ModelFolder, options: RaceOptions, first: Record, environment: Environment) -> Record:
    """All candidates that ran in the first race, timed again in new processes; makes no packages."""
    finished = record_path(folder.root, environment.fingerprint)
    found = read_record(finished)
    if found is not None and found.raced_at == first.raced_at:
        finished.unlink()
    names = tuple(entrant.candidate.id for entrant in first.entrants if entrant.failure is None)
    options = msgspec.structs.replace(options, candidates=names, precisions=None)
    return race_model(folder.root, options, listener(folder.manifest.name)).record


def make_cell(batch: int, level: Level, decision: Decision, again: Record) -> Cell:
    """The pick and its rivals by the second timing."""
    entrants = {entrant.candidate.id: entrant for entrant in again.entrants}
    timings = {name: timing for name, entrant in entrants.items() if (timing := entrant.timing(batch))}
    eligible = [ranked.candidate.id for ranked in decision.ranking if ranked.candidate.id in timings]
    latencies = {name: timings[name].p50_ms for name in eligible}

    def fastest(names: Sequence[str]) -> Timed:
        return min((Timed(name, timings[name].p50_ms) for name in names), key=lambda timed: timed.ms)

    pick, best = fastest([decision.require().id]), fastest(eligible)
    orders = {
        order: [name for name in _plain((package,), again) if name in timings] for order, package in ORDERS.items()
    }
    own = {backend: [n for n in eligible if entrants[n].candidate.backend == backend] for backend in INSTALLS}
    return Cell(
        batch=batch,
        contract=level,
        pick=pick,
        best=best,
        spread=max(timings[pick.candidate].spread, timings[best.candidate].spread),
        latencies_ms=latencies,
        orders={order: fastest(names) for order, names in orders.items() if names},
        installs={backend: fastest(names) for backend, names in own.items() if names},
    )


def narrow_candidates(folder: ModelFolder, record: Record) -> list[Narrow]:
    """Every candidate that ran at 8 bits, and whether `bounded` admits it."""
    found = [e for e in record.entrants if e.runs_at is Precision.INT8 and e.fidelity is not None]
    contract = Contract("bounded")
    return [
        Narrow(
            entrant.candidate.id,
            entrant.fidelity.max_rel if entrant.fidelity else 0.0,
            outside_contract(entrant, record, folder.manifest.reference, contract),
        )
        for entrant in found
    ]


def time_starts(
    folder: ModelFolder, options: RaceOptions, record: Record, names: Sequence[str], repeats: int
) -> dict[str, float]:
    """Median seconds from process start to first output at batch 1, the candidates in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as work:
        inputs = write_batch(find_inputs(folder, options), 1, Path(work) / "one.npz")
        for _ in range(repeats):
            for name in names:
                entrant = record.entrant(name)
                if entrant is not None:
                    seconds[name].append(_start_s(folder, entrant, inputs))
    return {name: statistics.median(times) for name, times in seconds.items() if times}


def _start_s(folder: ModelFolder, entrant: Entrant, inputs: Path) -> float:
    with Contestant(folder.package(entrant.candidate.package_id), entrant.candidate, _START_BOUNDS) as contestant:
        contestant.open()
        contestant.first_run(inputs)
        return time.perf_counter() - contestant.started_s


def _decide(
    folder: ModelFolder,
    environment: Environment,
    record: Record,
    level: Level,
    *,
    batch: int | None = None,
    objective: Objective = "latency",
) -> Decision:
    wish = Wish(batch_size=batch, contract=Contract(level), objective=objective)
    return decide(folder.manifest, environment, wish, record)


def _plain(packages: Collection[str], record: Record) -> list[str]:
    """The plain candidates of some packages that could run."""
    return [
        entrant.candidate.id
        for entrant in record.entrants
        if entrant.candidate.package_id in packages and not entrant.candidate.variant and not entrant.failure
    ]


def main() -> int:
    """Run the benchmark, or write the figures that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/choice"), help="folder of models and figures")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    parser.add_argument("--backends", default="torch,onnx,openvino,litert", help="comma-separated")
    parser.add_argument("--precisions", default="fp32,bf16,int8", help="comma-separated")
    parser.add_argument("--batches", default="1,8", help="comma-separated; the first one decides cold starts")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--starts", type=int, default=5, help="cold starts of each candidate")
    parser.add_argument("--warmup-s", type=float, default=3.0)
    parser.add_argument("--search-s", type=float, default=60.0, help="of the search of layers that stay in fp32")
    parser.add_argument("--threads", type=int, default=None, help="default: the usable cores")
    parser.add_argument("--again", action="store_true", help="measure again what has figures")
    parser.add_argument("--write", action="store_true", help="write the figures into docs/choosing.md and stop")
    parser.add_argument("--note", default="", help="a sentence with the figures: what else the machine did")
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    if unknown := [name for name in names if name not in MODELS]:
        parser.error(f"no model {', '.join(unknown)}; there are {', '.join(MODELS)}")
    if arguments.write:
        return write_page([choice for name in names if (choice := read_choice(arguments.work, name))], arguments.note)
    environment = describe_environment()
    arguments.threads = arguments.threads or environment.cpu.usable_cores
    arguments.work.mkdir(parents=True, exist_ok=True)
    choices = []
    for name in names:
        if arguments.again:
            forget(arguments.work, name, environment)
        choice = read_choice(arguments.work, name) or measure(name, arguments, environment)
        print_choice(choice)
        sys.stdout.flush()
        choices.append(choice)
    return 0 if print_summary(choices) else 1


def forget(work: Path, name: str, environment: Environment) -> None:
    """Delete the figures of a model; its packages stay."""
    for path in (work / f"{name}.json", work / f"{name}.first.json"):
        path.unlink(missing_ok=True)
    root = work / "models" / name
    for place in (record_path, part_path):
        place(root, environment.fingerprint).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
