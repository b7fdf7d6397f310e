"""`runoff quantize` without its words: make a model's narrower candidates under a contract and measure each.

Knows forms, the exporter and the yardstick; runs no runtime in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from runoff.backends import table
from runoff.backends.row import Variant
from runoff.child import RemoteError
from runoff.environment.describe import Environment, describe_environment
from runoff.errors import ChildFailed, ExportError, ModelError, RunoffError, UnknownName, unknown_name
from runoff.export.calibration import Rows
from runoff.export.forms import CALIBRATIONS, FORMS, METHODS, Form, find_form
from runoff.export.quantize import QuantizeOptions, form_id, form_obstacle, quantize_package
from runoff.export.run import ExportOptions, export_package, find_package
from runoff.models.folder import ModelFolder
from runoff.race.candidates import Candidate, make_candidate, variants_of
from runoff.race.fidelity import Contract
from runoff.race.measure import Quantized, measure
from runoff.race.yardstick import Yardstick, make_yardstick
from runoff.types import Precision

PRECISIONS = ("fp16", "bf16", *METHODS)
_DOT_PRODUCTS = {"avx_vnni", "avx512_vnni", "amx_int8"}
_MEMORY_SHARE = 0.9
"""The share of the usable memory at which a quantiser is stopped, before the machine is in trouble."""
_BF16_BACKENDS = ("torch", "openvino")
_FP16_BACKENDS = ("onnx",)


@dataclass(frozen=True, slots=True)
class QuantizeWish:
    """What `runoff quantize` was asked for.

    Attributes:
        precision: `fp16`, `bf16`, `int8-dynamic`, `int8-static` or `int4`.
        backends: ids; None for all that have it and can be made here.
        data: rows of the user.
        calibration, symmetric: see `QuantizeOptions`.
        contract: what results must keep to.
        force: make packages again that are there.
        search_s: seconds for the search of layers to keep, for each package.
        on_step: called with one line before each step.
    """

    precision: str
    backends: tuple[str, ...] | None = None
    data: Rows | None = None
    calibration: str = "minmax"
    symmetric: bool = False
    contract: Contract = field(default_factory=Contract)
    force: bool = False
    search_s: float = 300.0
    on_step: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What came of it: the folder with its new packages, what each costs and gains, and failures by package id."""

    folder: ModelFolder
    made: tuple[Quantized, ...]
    failed: dict[str, RunoffError]


def quantize_model(folder: ModelFolder, wish: QuantizeWish) -> QuantizeResult:
    """Make the narrower candidates of a model and measure them; one that cannot be made does not stop the others.

    Args:
        folder: a writable model folder.
        wish: what to make.

    Raises:
        UnknownName: no such precision or calibration, or a backend that does not have it.
        InputError: data that cannot be used.
        ExportError: nothing at fp32 can run here to compare with.
    """
    _check(wish)
    environment = describe_environment()
    forms = _forms(wish)
    if wish.backends is None:
        forms = _possible(folder, forms, wish.on_step)
    yardstick = make_yardstick(folder, wish.data)
    failed: dict[str, RunoffError] = {}
    pairs: list[tuple[Candidate, Candidate]] = []
    if forms:
        jobs = [(form, None) for form in forms]
        folder, unmade = quantize_forms(folder, jobs, yardstick, wish.contract, _options(wish, environment))
        failed.update(unmade)
        for form in forms:
            if form_id(folder, form) not in failed:
                pairs += _pairs(folder, form_id(folder, form), form.format, environment)
    elif wish.precision == "fp16":
        folder, pairs, failed = _fp16(folder, wish, environment)
    else:
        folder, pairs, failed = _bf16(folder, wish, environment)
    made = []
    for pair in pairs:
        try:
            made += measure(folder, [pair], yardstick, wish.contract, environment)
        except (ChildFailed, RemoteError, RunoffError) as error:
            failed[pair[0].id] = error
    return QuantizeResult(folder, tuple(made), failed)


def quantize_forms(
    folder: ModelFolder,
    jobs: Sequence[tuple[Form, int | None]],
    yardstick: Yardstick,
    contract: Contract,
    options: QuantizeOptions,
) -> tuple[ModelFolder, dict[str, ExportError | ModelError]]:
    """Make each form that the model lacks, for the batch size beside it where its format takes no dynamic one.

    Returns:
        The folder, and those that could not be made, by package id.
    """
    failed: dict[str, ExportError | ModelError] = {}
    for form, batch in jobs:
        judging = yardstick.judging(form.precision, contract)
        try:
            folder = quantize_package(folder, form, yardstick.calibration, judging, options, batch)
        except (ExportError, ModelError) as error:
            failed[form_id(folder, form, batch)] = error
    return folder, failed


def quantize_options(environment: Environment, search_s: float, max_metric_drop: float | None) -> QuantizeOptions:
    """How forms are made on this machine: ranges by minmax, and within its memory."""
    return QuantizeOptions(
        max_metric_drop=max_metric_drop,
        reduce_range=needs_reduced_range(environment),
        search_s=search_s,
        max_memory_bytes=int(environment.memory.usable_bytes * _MEMORY_SHARE),
    )


def needs_reduced_range(environment: Environment) -> bool:
    """Whether int8 weights need 7 bits: x86 without dot products sums pairs of products in 16 bits, which overflow."""
    return environment.os.arch == "x86_64" and not _DOT_PRODUCTS & set(environment.cpu.isa)


def quantization_notes(folder: ModelFolder) -> list[str]:
    """A sentence for each quantised package: what it was calibrated on, and which layers stayed in higher precision."""
    notes = []
    for entry in folder.manifest.packages:
        details = entry.made_by.details if entry.made_by else {}
        parts = [f"calibrated on {details['data']}"] if "data" in details else []
        kept = details.get("kept", ())
        parts += [f"{len(kept)} layers stay in fp32: {', '.join(kept)}"] if kept else []
        if parts:
            notes.append(f"{entry.id}: {'; '.join(parts)}")
    return notes


def _check(wish: QuantizeWish) -> None:
    if wish.precision not in PRECISIONS:
        raise unknown_name("precision", wish.precision, list(PRECISIONS))
    if wish.calibration not in CALIBRATIONS:
        raise unknown_name("calibration", wish.calibration, list(CALIBRATIONS))
    if wish.symmetric and (wish.precision != "int8-static" or list(wish.backends or ()) != ["onnx"]):
        raise UnknownName(
            "symmetric quantisation is for TensorRT, which takes int8-static graphs of the backend onnx",
            hint="--precision int8-static --backend onnx --symmetric",
        )


def _forms(wish: QuantizeWish) -> list[Form]:
    """The forms asked for; none for the 16-bit precisions, whose backends are checked instead."""
    backends = None if wish.backends is None else [table.row(name).id for name in wish.backends]
    having = {"fp16": _FP16_BACKENDS, "bf16": _BF16_BACKENDS}.get(wish.precision)
    if having is None:
        own = [form for form in FORMS if form.method == wish.precision]
        return own if backends is None else [find_form(backend, own[0].method) for backend in backends]
    for backend in backends or ():
        if backend not in having:
            raise UnknownName(
                f"backend {backend!r} has no {wish.precision} form; {', '.join(having)} has",
                hint=f"--backend {','.join(having)}",
            )
    return []


def _possible(folder: ModelFolder, forms: list[Form], tell: Callable[[str], None] | None) -> list[Form]:
    """The forms that can be made here; all of them where none can, so that their reasons are the answer."""
    obstacles = {form.id: form_obstacle(folder, form) for form in forms}
    possible = [form for form in forms if obstacles[form.id] is None]
    for name, error in obstacles.items():
        if error is not None and tell and possible:
            tell(f"without {name}: {error.message.splitlines()[0]}")
    return possible or forms


def _options(wish: QuantizeWish, environment: Environment) -> QuantizeOptions:
    usual = quantize_options(environment, wish.search_s, wish.contract.max_metric_drop)
    return replace(
        usual, calibration=wish.calibration, symmetric=wish.symmetric, force=wish.force, on_step=wish.on_step
    )


def _fp16(
    folder: ModelFolder, wish: QuantizeWish, environment: Environment
) -> tuple[ModelFolder, list[tuple[Candidate, Candidate]], dict[str, RunoffError]]:
    """A graph that computes in fp16: for GPUs; CPUs mostly cast every layer back and forth."""
    batch = folder.reference.entry.batch
    try:
        folder = export_package(folder, "onnx", Precision.FP16, ExportOptions(force=wish.force, on_step=wish.on_step))
    except (ExportError, ModelError) as error:
        return folder, [], {"onnx-fp16": error}
    package = find_package(folder, "onnx", Precision.FP16, batch)
    if package is None:
        return folder, [], {"onnx-fp16": ExportError("the exporter made no fp16 package")}
    return folder, _pairs(folder, package.id, "onnx", environment), {}


def _bf16(
    folder: ModelFolder, wish: QuantizeWish, environment: Environment
) -> tuple[ModelFolder, list[tuple[Candidate, Candidate]], dict[str, RunoffError]]:
    """bf16 needs no package: it is a hint with which fp32 packages are opened."""
    pairs: list[tuple[Candidate, Candidate]] = []
    failed: dict[str, RunoffError] = {}
    batch = folder.reference.entry.batch
    for backend in dict.fromkeys(table.row(name).id for name in wish.backends or _BF16_BACKENDS):
        format_id = table.row(backend).formats[0]
        try:
            folder = export_package(folder, format_id, Precision.FP32, ExportOptions(on_step=wish.on_step))
        except (ExportError, ModelError) as error:
            failed[f"{backend}-fp32+bf16"] = error
            continue
        package = find_package(folder, format_id, Precision.FP32, batch)
        if package is not None:
            plain = _candidate(folder, package.id, Variant(""), environment)
            pairs.append((_candidate(folder, package.id, Variant("bf16", Precision.BF16), environment), plain))
    return folder, pairs, failed


def _pairs(
    folder: ModelFolder, package_id: str, format_id: str, environment: Environment
) -> list[tuple[Candidate, Candidate]]:
    """The candidates of a package, each beside that of the fp32 package in the same format, opened in the same way."""
    entry = folder.package(package_id).entry
    source = find_package(folder, format_id, Precision.FP32, entry.batch)
    if source is None:
        raise ExportError(f"{folder.root} has no {format_id} package at fp32 to compare {package_id} with")
    # A hint for what stays in fp32 is the race's business: it says little of what quantising gained.
    variants = [variant for variant in variants_of(entry, table.row(entry.backend)) if variant.precision is None]
    return [
        (_candidate(folder, package_id, variant, environment), _candidate(folder, source.id, variant, environment))
        for variant in variants
        if not variant.opt_in
    ]


def _candidate(folder: ModelFolder, package_id: str, variant: Variant, environment: Environment) -> Candidate:
    entry = folder.package(package_id).entry
    return make_candidate(entry, table.row(entry.backend), variant, environment.cpu.usable_cores)
