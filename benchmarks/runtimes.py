"""Every form of every reference model: does it convert, is it right, how fast is it, how large, how soon is it open?

    python benchmarks/runtimes.py --work build/runtimes [--models mlp,yolo] [--forms onnx-fp32,...] [--stage convert]
    python benchmarks/runtimes.py --work build/runtimes --write

For each model every format that a backend opens is made at fp32, then all that run here race at batch 1: outputs are
held against the reference's under the contract `exact`, and timed in turns. The figures are kept in the folder
`--work` after each step: a run that was killed goes on where it was. `--write` puts the table into docs/runtimes.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import msgspec

from output import listener, say
from reference_models import MODELS, model_folder
from runoff.backends.row import BackendRow
from runoff.environment.describe import Environment, describe_environment
from runoff.errors import ExportError, ModelError, RunoffError
from runoff.export.run import ExportOptions, export_package, find_package
from runoff.models.folder import ModelFolder, Package, read_folder
from runoff.race.api import race_model
from runoff.race.candidates import wrong_platform
from runoff.race.decide import outside_contract
from runoff.race.fidelity import Contract
from runoff.race.options import RaceOptions
from runoff.race.record import Record
from runoff.types import CPU, Precision
from runtime_cells import Cell, Conversion, Form, Result, list_forms, read_result, save
from runtime_table import print_table, write_page

_REASON_LENGTH = 220
_GIB = 2**30


def convert(folder: ModelFolder, form: Form, timeout_s: float) -> Conversion:
    """Make a form with the model's dynamic batch, or for batch 1 where that is what its converter takes."""
    started = time.perf_counter()
    reason = ""
    for batch in (None, 1):
        options = ExportOptions(batch=batch, timeout_s=timeout_s, max_memory_bytes=12 * _GIB)
        try:
            made = export_package(folder, form.format, Precision.FP32, options)
        except (ExportError, ModelError) as error:
            reason = reason or why(error)
            continue
        package = found_package(made, form)
        if package is not None:
            return Conversion(time.perf_counter() - started, package.id)
    return Conversion(time.perf_counter() - started, reason=reason)


def found_package(folder: ModelFolder, form: Form) -> Package | None:
    """The package of a form at any batch."""
    return find_package(folder, form.format, Precision.FP32, "dynamic") or find_package(
        folder, form.format, Precision.FP32, 1
    )


def why(error: RunoffError) -> str:
    """An error in one line, with what would install what is missing."""
    hint = f" ({error.hint})" if error.hint and error.hint.startswith("pip install") else ""
    line = " ".join(error.message.split())
    return (line if len(line) <= _REASON_LENGTH else f"{line[:_REASON_LENGTH]}...") + hint


def cannot_run(row: BackendRow, environment: Environment) -> str | None:
    """Why a backend opens nothing on this machine, or None."""
    elsewhere = wrong_platform(row)
    if elsewhere is not None:
        return elsewhere
    if CPU.kind not in row.devices:
        return f"{row.title} runs on {' and '.join(row.devices)} only"
    facts = environment.libraries.get(row.library) if row.library else None
    if row.library is None or (facts is not None and facts.version is not None and facts.problem is None):
        return None
    return f"{row.title} is not installed" if facts is None or facts.problem is None else facts.problem


def race(folder: ModelFolder, names: list[str], arguments: argparse.Namespace) -> Record:
    """Check and time candidates together; a race that was interrupted goes on."""
    options = RaceOptions(
        candidates=tuple(names),
        num_threads=(arguments.threads,),
        rounds=arguments.rounds,
        max_rounds=2 * arguments.rounds,
        turn_s=0.3,
        min_runs=3,
        warmup_s=arguments.warmup_s,
        samples=16,
        force=arguments.again,
    )
    return race_model(folder.root, options, listener(folder.manifest.name)).record


def measure(name: str, forms: list[Form], arguments: argparse.Namespace, environment: Environment) -> Result:
    """Make the forms that were not tried yet, race those that run here, keep the figures."""
    folder = model_folder(arguments.work, name)
    result = read_result(arguments.work, name)
    for form in forms:
        known = result.conversions.get(form.id)
        if known is None or (arguments.retry and known.reason):
            say(f"{name}: converting to {form.id}")
            result.conversions[form.id] = convert(folder, form, arguments.timeout_s)
            save(arguments.work, result)
    if arguments.stage == "convert":
        return result
    folder = read_folder(folder.root)
    runnable = {
        form.named(package_id): form
        for form in list_forms()
        if (done := result.conversions.get(form.id)) and (package_id := done.package_id)
        if cannot_run(form.backend, environment) is None
    }
    started = time.perf_counter()
    record = race(folder, list(runnable), arguments)
    say(f"{name}: raced {len(runnable)} candidates in {time.perf_counter() - started:.0f} s")
    for form in list_forms():
        if form.id in result.conversions:
            result.cells[form.id] = make_cell(folder, form, result.conversions[form.id], record, environment)
    result.facts, result.raced_at, result.threads = record.facts, record.raced_at, arguments.threads
    save(arguments.work, result)
    return result


def make_cell(
    folder: ModelFolder, form: Form, conversion: Conversion, record: Record, environment: Environment
) -> Cell:
    """What is known of a form after the race."""
    if conversion.package_id is None:
        return Cell(conversion.reason or "cannot be made")
    files = folder.package(conversion.package_id).entry.files
    made = Cell(converts=True, size_bytes=sum(file.bytes for file in files))
    candidate = form.named(conversion.package_id)
    found = [entrant for entrant in record.entrants if entrant.candidate.id.partition("@")[0] == candidate]
    if not found:
        reason = cannot_run(form.backend, environment) or record.unmade.get(conversion.package_id, "did not race")
        return msgspec.structs.replace(made, reason=f"converts, not run here: {reason}")
    entrant = found[0]
    timing = entrant.timing(1)
    outside = outside_contract(entrant, record, folder.manifest.reference, Contract())
    red = entrant.failure or outside or (None if timing else "was not timed")
    return msgspec.structs.replace(
        made,
        reason=" ".join(red.split())[:_REASON_LENGTH] if red else None,
        max_rel=entrant.fidelity.max_rel if entrant.fidelity else None,
        p50_ms=timing.p50_ms if timing else None,
        spread=timing.spread if timing else None,
        load_s=entrant.load_s,
    )


def main() -> int:
    """Run the benchmark, or write the table from what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/runtimes"), help="folder of models and figures")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    parser.add_argument("--forms", help="comma-separated rows of the table; default: all")
    parser.add_argument("--stage", choices=("all", "convert"), default="all", help="convert: time nothing yet")
    parser.add_argument("--retry", action="store_true", help="try conversions again that failed")
    parser.add_argument("--again", action="store_true", help="check and time again what has figures")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warmup-s", type=float, default=3.0)
    parser.add_argument("--timeout-s", type=float, default=900.0, help="of one conversion")
    parser.add_argument("--threads", type=int, default=None, help="default: the usable cores")
    parser.add_argument("--write", action="store_true", help="write the table into docs/runtimes.md and stop")
    parser.add_argument("--note", default="", help="a sentence below the table: what else the machine did")
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    if unknown := [name for name in names if name not in MODELS]:
        parser.error(f"no model {', '.join(unknown)}; there are {', '.join(MODELS)}")
    forms = list_forms()
    if arguments.forms:
        wanted = arguments.forms.split(",")
        if unknown := [name for name in wanted if name not in {form.id for form in forms}]:
            parser.error(f"no form {', '.join(unknown)}; there are {', '.join(form.id for form in forms)}")
        forms = [form for form in forms if form.id in wanted]
    environment = describe_environment()
    arguments.threads = arguments.threads or environment.cpu.usable_cores
    if not arguments.write:
        arguments.work.mkdir(parents=True, exist_ok=True)
        for name in names:
            measure(name, forms, arguments, environment)
    results = [read_result(arguments.work, name) for name in names]
    return write_page(list_forms(), results, arguments.note) if arguments.write else print_table(list_forms(), results)


if __name__ == "__main__":
    sys.exit(main())
