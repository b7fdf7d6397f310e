"""Quantising: make a form of the model in an isolated process, judge it, keep layers back where it fails, add it.

Knows no runtime and no contract: what is right is a function that is handed in. The model folder changes only when the
result was judged, opened and found to answer numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from runoff import settings
from runoff.child import Child, RemoteError
from runoff.environment.libraries import is_importable
from runoff.errors import ChildFailed, ExportError
from runoff.export.calibration import Calibration
from runoff.export.forms import Form
from runoff.export.isolated import plain, worker
from runoff.export.run import ExportOptions, batch_of, export_package, find_package, golden_files, obstacle
from runoff.export.sensitivity import SearchLog, Verdict, search
from runoff.export.step import Control, Made, Quantization, StepOptions
from runoff.models.arrays import Arrays, read_npz, write_npz
from runoff.models.dimensions import fixed_sizes, signature_of
from runoff.models.folder import ModelFolder, Package, add_package, describe_tree
from runoff.models.manifest import Batch, MadeBy, PackageEntry
from runoff.models.staging import staging
from runoff.types import Precision

LOG_NAME = "search.json"


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """How to quantise.

    Attributes:
        calibration: how ranges are read from the rows: `minmax`, `entropy` or `percentile`.
        max_metric_drop: a drop that was asked for; with labels it lets NNCF keep layers back by itself.
        reduce_range: 7 bits for weights, for processors without 8-bit dot products.
        symmetric: see `Quantization`; for ONNX Runtime's static method.
        search: keep layers in higher precision where the whole model is outside its contract.
        search_s: seconds for that search.
        force: make it again although it is there.
        timeout_s: seconds for one step; `RUNOFF_WORKER_TIMEOUT_S` unless given.
        max_memory_bytes: resident memory at which a quantiser is stopped; no limit unless given.
        on_step: called with one line before each step.
    """

    calibration: str = "minmax"
    max_metric_drop: float | None = None
    reduce_range: bool = False
    symmetric: bool = False
    search: bool = True
    search_s: float = 300.0
    force: bool = False
    timeout_s: float | None = None
    max_memory_bytes: int | None = None
    on_step: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class Judging:
    """What is right: answers of the reference are judged once, those of each draft against them.

    Attributes:
        judge: the verdict on outputs for the judged rows.
        task: the task whose metric counts, where there are labels.
    """

    judge: Callable[[Arrays], Verdict]
    task: str | None = None


def quantize_package(
    folder: ModelFolder,
    form: Form,
    calibration: Calibration,
    judging: Judging,
    options: QuantizeOptions | None = None,
    batch: int | None = None,
) -> ModelFolder:
    """Make a quantised form and add it as a package, with the fp32 package that it is made from.

    Args:
        folder: the model; it must be writable.
        form: what to make.
        calibration: rows to read ranges from, and rows to judge on.
        judging: what is right.
        options: see `QuantizeOptions`.
        batch: the one batch size to make it for, in formats that take no dynamic one; None: as `ExportOptions.batch`.

    Returns:
        the folder as it is now, with the fp32 package in the same format; as it was when the package is there already.

    Raises:
        ExportError: a library is missing, the quantiser failed, crashed, hung or took too much memory, or the result is
            outside its contract whatever is kept back; the folder is as it was, but for the fp32 packages.
        ModelError: the folder cannot be written.
    """
    options = options or QuantizeOptions()
    wanted = batch_of(folder, form.format, batch)
    package_id = form_id(folder, form, batch)
    if folder.manifest.package(package_id) is not None and not options.force:
        return folder
    _refuse(form, package_id, options)
    exporting = ExportOptions(on_step=options.on_step, timeout_s=options.timeout_s)
    folder = export_package(folder, form.format, Precision.FP32, replace(exporting, batch=wanted))
    plain_package = find_package(folder, form.format, Precision.FP32, wanted)
    source = plain_package
    if form.source_format != form.format:
        folder = export_package(folder, form.source_format, Precision.FP32, exporting)
        source = find_package(folder, form.source_format, Precision.FP32, batch_of(folder, form.source_format, None))
    if source is None or plain_package is None:
        raise ExportError(f"{folder.root} has no {form.source_format} package at fp32 to quantise")
    target = _Target(form, package_id, wanted, fixed_sizes(plain_package.entry))
    try:
        with staging(folder.root) as work, worker(options.max_memory_bytes) as child:
            drafting = _Drafting(folder, source, target, calibration, judging, options, work, child)
            draft, log = drafting.settle()
            drafting.check(draft)
            return add_package(folder.root, _finish(draft, log), draft.place)
    except (ChildFailed, RemoteError) as error:
        why = f"the quantiser {error.message}" if isinstance(error, ChildFailed) else error.message
        raise ExportError(f"{source.id} to {package_id}: {why}", hint=error.hint) from error


def form_obstacle(folder: ModelFolder, form: Form) -> ExportError | None:
    """Why a form cannot be made from what is there with what is installed, or None."""
    try:
        _refuse(form, form.id, QuantizeOptions())
    except ExportError as error:
        return error
    found = (obstacle(folder, name, Precision.FP32) for name in (form.format, form.source_format))
    return next((error for error in found if error is not None), None)


def form_id(folder: ModelFolder, form: Form, batch: int | None = None) -> str:
    """The id of a form's package in a model, with the batch where it is made for one.

    Args:
        folder: the model.
        form: what is made.
        batch: as `quantize_package` takes it.
    """
    wanted = batch_of(folder, form.format, batch)
    return form.id if wanted == "dynamic" else f"{form.id}-b{wanted}"


def compute_outputs(package: Package, calibration: Calibration, work: Path, timeout_s: float | None = None) -> Arrays:
    """What a package answers for the judged rows, computed in a process of its own.

    Raises:
        ExportError: it cannot be opened or run here.
    """
    try:
        with worker() as child:
            return _answer(child, package, calibration, work, timeout_s or settings.worker_timeout_s())
    except (ChildFailed, RemoteError) as error:
        raise ExportError(f"{package.id} cannot run here: {error.message}", hint=error.hint) from error


def read_log(package: Package) -> SearchLog | None:
    """The log of the search that made a package, or None where there was none.

    Raises:
        ModelNotFound, DigestMismatch, PathEscapes: see `Package.verify`.
    """
    named = next((file for file in package.entry.files if file.path.endswith(f"/{LOG_NAME}")), None)
    if named is None:
        return None
    package.verify()
    return msgspec.json.decode((package.root / named.path).read_bytes(), type=SearchLog)


def _refuse(form: Form, package_id: str, options: QuantizeOptions) -> None:
    """Refuse what cannot work, before anything runs."""
    missing = [name for name in form.libraries if not is_importable(name)]
    if missing:
        raise ExportError(
            f"cannot make {package_id}: missing {', '.join(missing)}", hint=f"pip install 'runoff[{form.extra}]'"
        )
    if form.reads_data and options.calibration not in form.calibrations:
        ways = " or ".join(form.calibrations)
        raise ExportError(
            f"cannot make {package_id}: its quantiser reads ranges by {ways}, not by {options.calibration}",
            hint=f"--calibration {form.calibrations[0]}, or --backend with those that can",
        )


@dataclass(frozen=True, slots=True)
class _Target:
    """The package to make: its form, its id, and the sizes that its files are made for."""

    form: Form
    package_id: str
    batch: Batch
    sizes: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Draft:
    """A quantised model that is not yet in the folder."""

    package: Package
    made: Made
    place: Path


@dataclass(slots=True)
class _Drafting:
    """Makes and judges drafts of one form; all of them in one process, which remembers the calibration."""

    folder: ModelFolder
    source: Package
    target: _Target
    calibration: Calibration
    judging: Judging
    options: QuantizeOptions
    work: Path
    child: Child
    count: int = field(default=0)

    def settle(self) -> tuple[_Draft, SearchLog | None]:
        """The first draft within its contract: whole, under the quantiser's own control, or with layers kept back."""
        self._say(f"{self.source.id} -> {self.target.package_id}")
        whole, before = self._try(())
        if before.outside is None:
            return whole, None
        if not self.options.search:
            raise self._outside(before)
        controlled = self._controlled(before)
        if controlled is not None:
            return controlled
        self._say(f"{before.outside}: looking for the layers to keep in fp32")
        log = search(whole.made.layers, lambda kept: self._try(kept)[1], before, budget_s=self.options.search_s)
        if log.after is None:
            raise self._outside(before, log)
        draft, _ = self._try(log.kept)
        return draft, log

    def check(self, draft: _Draft) -> None:
        """Open the draft, at other batch sizes too, and refuse NaN."""
        whole = Package(draft.place, draft.package.entry, self.folder.manifest.signature)
        self.child.call("check", self._timeout_s, package=plain(whole), **golden_files(self.folder))

    def _try(self, kept: tuple[str, ...], control: Control | None = None) -> tuple[_Draft, Verdict]:
        draft = self._draft(kept, control)
        outputs = _answer(self.child, draft.package, self.calibration, self.work, self._timeout_s)
        return draft, self.judging.judge(outputs)

    def _draft(self, kept: tuple[str, ...], control: Control | None) -> _Draft:
        self.count += 1
        place = self.work / f"draft-{self.count}"
        place.mkdir()
        form, target = self.target.form, self.target
        step = StepOptions(
            form.precision,
            target.batch,
            sizes=target.sizes,
            quantization=Quantization(
                calibration=self.options.calibration,
                data=str(self._data()) if form.reads_data else None,
                batched=tuple(sorted(self.calibration.batched)),
                kept=kept,
                reduce_range=self.options.reduce_range and not self.options.symmetric,
                symmetric=self.options.symmetric,
                control=control,
            ),
        )
        answer = self.child.call(
            "export",
            self._timeout_s,
            package=plain(self.source),
            target=form.target,
            destination=str(place),
            options=msgspec.to_builtins(step),
        )
        made = msgspec.convert(answer, Made)
        drafted = PackageEntry(
            id=target.package_id,
            backend=form.backend,
            format=form.format,
            precision=form.precision,
            files=describe_tree(place, place, made.main_file),
            batch=target.batch,
            requires=made.requires,
            made_by=MadeBy(made.tool, self.source.id, made.versions, self._details(made)),
        )
        return _Draft(Package(place, drafted, signature_of(drafted, self.folder.manifest.signature)), made, place)

    def _controlled(self, before: Verdict) -> tuple[_Draft, SearchLog] | None:
        """A draft under the quantiser's own accuracy control, where it has one and there are labels."""
        labels, drop = self.calibration.judged.labels, self.options.max_metric_drop
        if not self.target.form.controls_accuracy or labels is None or drop is None or self.judging.task is None:
            return None
        self._say(f"{before.outside}: quantising again under accuracy control")
        path = self.work / "labels.npy"
        np.save(path, labels, allow_pickle=False)
        control = Control(str(_judged(self.calibration, self.work)), str(path), self.judging.task, drop)
        draft, after = self._try((), control)
        if after.outside is not None or len(draft.made.kept) == len(draft.made.layers):
            return None
        method = "the quantiser's own accuracy control"
        return draft, SearchLog(len(draft.made.layers), before, after, draft.made.kept, (), (), 0.0, method=method)

    def _details(self, made: Made) -> dict[str, Any]:
        details = dict(made.details)
        if self.target.form.reads_data:
            details |= {"data": self.calibration.read.name, "rows": self.calibration.num_read}
        if made.kept:
            details["kept"] = list(made.kept)
        return details

    def _data(self) -> Path:
        path = self.work / "calibration.npz"
        if not path.exists():
            write_npz(path, self.calibration.read.arrays)
        return path

    def _outside(self, before: Verdict, log: SearchLog | None = None) -> ExportError:
        what = f"{self.target.package_id} is outside its contract: {before.outside}"
        if log is None:
            return ExportError(what, hint="name a wider contract, or let layers be kept back")
        tried = f"; with up to {max((t.num_kept for t in log.trials), default=0)} of {log.num_layers} layers kept too"
        hint = "other calibration data, another --calibration, a wider --max-metric-drop, or more search time"
        return ExportError(what + tried, hint=hint)

    def _say(self, line: str) -> None:
        if self.options.on_step:
            self.options.on_step(line)

    @property
    def _timeout_s(self) -> float:
        return self.options.timeout_s if self.options.timeout_s is not None else settings.worker_timeout_s()


def _answer(child: Child, package: Package, calibration: Calibration, work: Path, timeout_s: float) -> Arrays:
    outputs = work / "outputs.npz"
    child.call(
        "answer",
        timeout_s,
        package=plain(package),
        inputs=str(_judged(calibration, work)),
        outputs=str(outputs),
        batched=sorted(calibration.batched),
    )
    return read_npz(outputs)


def _judged(calibration: Calibration, work: Path) -> Path:
    path = work / "judged.npz"
    if not path.exists():
        write_npz(path, calibration.judged.arrays)
    return path


def _finish(draft: _Draft, log: SearchLog | None) -> PackageEntry:
    """The entry of a draft, with the log of the search beside the model."""
    entry = draft.package.entry
    if log is None:
        return entry
    (draft.place / LOG_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(log), indent=2) + b"\n")
    return msgspec.structs.replace(entry, files=describe_tree(draft.place, draft.place, draft.made.main_file))
