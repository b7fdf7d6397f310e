"""The page around a model for browsers: its files, the sample that it can run, and the checks of what it computes.

Knows neither format nor converter: web.py and tfjs.py put the model there and say how it is run. Runs in the export
worker. Each check holds the page's outputs for the sample against those of the reference.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from runoff import settings
from runoff.backends import table
from runoff.backends.node import CONFIG_FILE, PageConfig, encode_frame
from runoff.backends.protocol import SessionOptions
from runoff.environment.javascript import WEB
from runoff.errors import ExportError, InputError, ModelNotFound
from runoff.export.browser import browser_version, find_browser, run_in_browser
from runoff.export.step import StepOptions, with_batch
from runoff.models.arrays import Array, Arrays, InputCheck, read_npz
from runoff.models.dimensions import batch_dimension
from runoff.models.evaluation import read_labels
from runoff.models.folder import ModelFolder, Package, describe_tree, read_folder
from runoff.models.manifest import PackageEntry
from runoff.models.samples import generate_inputs, resize_rows
from runoff.types import DType, Precision, Signature

MAIN_FILE = "index.html"
LIMITS = {Precision.FP32: 1e-4, Precision.FP16: 5e-2, Precision.INT8: 2e-1}
"""The largest error of an output over its largest magnitude: those of the fidelity levels of these precisions."""
_GOLDEN_FILE = "golden.bin"
_SMALL_LIMIT = 2
"""Integers below it are valid for any table that a model looks them up in."""

Sample = tuple[dict[str, Array], dict[str, Array]]
"""Inputs, and what is right for them, by name."""


def write_page(
    source: Package, destination: Path, options: StepOptions, runtime_files: Mapping[str, Path], **facts: Any
) -> Sample:
    """Write everything around the model into the folder that it lies in.

    Args:
        source: the package that it was made from.
        destination: the folder.
        options: of the step.
        runtime_files: the files of the runtime that the page loads, by the name that they get.
        facts: fields of `PageConfig` that the format decides: runtime, version, model, external, providers.

    Returns:
        the sample that lies beside the page.
    """
    folder = _model_folder(source)
    signature = with_batch(source.signature, options.batch)
    inputs, expected = sample = make_sample(source, signature, folder)
    tensors = {f"inputs/{name}": array for name, array in inputs.items()}
    tensors |= {f"outputs/{name}": array for name, array in expected.items()}
    (destination / _GOLDEN_FILE).write_bytes(b"".join(encode_frame({}, tensors)))
    manifest = folder.manifest if folder else None
    names = (facts["model"], *facts.get("external", ()))
    config = PageConfig(
        name=manifest.name if manifest else source.id,
        signature=signature,
        precision=options.precision.value,
        model_bytes=sum((destination / name).stat().st_size for name in names),
        task=manifest.task if manifest else None,
        preprocess=manifest.preprocess if manifest else {},
        labels=read_labels(folder) if folder else (),
        golden=True,
        limit=LIMITS[options.precision],
        **facts,
    )
    (destination / CONFIG_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2))
    for name in ("index.html", "page.css", "page.js", "image.js", "tensors.js", f"{config.runtime}.js"):
        shutil.copyfile(WEB / "page" / name, destination / name)
    shutil.copyfile(WEB / "runtimes" / f"{config.runtime}.js", destination / "runtime.js")
    (destination / "runtime").mkdir()
    for name, path in runtime_files.items():
        shutil.copyfile(path, destination / "runtime" / name)
    return sample


def check_page(destination: Path, source: Package, options: StepOptions, sample: Sample) -> dict[str, str]:
    """Let the page's model compute the sample in Node.js and the page itself in headless Chromium.

    Returns:
        what was checked, in words by place; `not checked here` with the reason where there is no browser.

    Raises:
        ExportError: it does not run, or its outputs are not those of the reference.
    """
    config = msgspec.json.decode((destination / CONFIG_FILE).read_bytes(), type=PageConfig)
    limit = LIMITS[options.precision]
    inputs, expected = sample
    entry = PackageEntry(
        "page", config.runtime, "page", options.precision, describe_tree(destination, destination, MAIN_FILE)
    )
    session = table.backend(config.runtime).open(Package(destination, entry, config.signature), SessionOptions())
    try:
        outputs = session.run(inputs)
    finally:
        session.close()
    node = f"Node.js {session.facts['node']}"
    checked = {"node": f"{node}, {session.facts['runtime']}: {_hold(node, outputs, expected, limit)}"}
    program = find_browser()
    if program is None:
        return {**checked, "browser": "not checked in a browser here: no Chromium on PATH"}
    if browser_version(program) is None:
        return {**checked, "browser": f"not checked in a browser here: {program} does not start"}
    browsed = run_in_browser(program, destination, config.providers[0], settings.worker_timeout_s() / 2)
    figure = _hold(browsed.browser, browsed.outputs, expected, limit)
    return {**checked, "browser": f"{browsed.browser}, {config.providers[0]}: {figure}"}


def make_sample(source: Package, signature: Signature, folder: ModelFolder | None) -> Sample:
    """The golden pair of the model, its rows cut or repeated to a fixed batch; else generated inputs and the answers of
    the package that the page is made from.
    """
    golden = folder.manifest.golden if folder else None
    if folder is not None and golden is not None:
        inputs, expected = read_npz(folder.file(golden.inputs)), read_npz(folder.file(golden.outputs))
        rows = signature.inputs[0].shape[0] if signature.inputs[0].shape else None
        batch = batch_dimension(folder.manifest.signature)
        if isinstance(rows, int) and batch is not None:
            inputs = resize_rows(folder.manifest.signature, inputs, rows)
            batched = {spec.name for spec in folder.manifest.signature.outputs if spec.shape[:1] == (batch,)}
            expected = {
                name: array[np.arange(rows) % len(array)] if name in batched else array
                for name, array in expected.items()
            }
        try:
            InputCheck(signature)(inputs)
        except InputError:
            pass
        else:
            return inputs, {spec.name: expected[spec.name] for spec in signature.outputs}
    small = {spec.name: _SMALL_LIMIT for spec in signature.inputs if spec.dtype in (DType.INT64, DType.INT32)}
    inputs = generate_inputs(signature, rows=2, seed=0, limits=small)
    session = table.backend(source.entry.backend).open(source, SessionOptions())
    try:
        return inputs, session.run(inputs)
    finally:
        session.close()


def _model_folder(source: Package) -> ModelFolder | None:
    """The folder that a package lies in; None for a package that is in none."""
    try:
        return read_folder(source.root)
    except ModelNotFound:
        return None


def largest_error(outputs: Arrays, expected: Arrays) -> float:
    """The largest absolute error over the largest magnitude of an output, the worst output first; infinite where one
    is NaN or infinite and the other is not.
    """
    worst = 0.0
    for name, right in expected.items():
        found, wanted = outputs[name].astype(np.float64), right.astype(np.float64)
        same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
        difference = np.where(same, 0.0, np.abs(np.where(same, 0.0, found) - np.where(same, 0.0, wanted)))
        difference = np.where(np.isnan(difference), np.inf, difference)
        finite = np.abs(wanted[np.isfinite(wanted)])
        scale = float(finite.max()) if finite.size else 0.0
        worst = max(worst, float(difference.max(initial=0.0)) / (scale or 1.0))
    return worst


def _hold(place: str, outputs: Arrays, expected: Arrays, limit: float) -> str:
    """Hold outputs against what is right; answers the figure in words."""
    for name, right in expected.items():
        found = outputs.get(name)
        if found is None or found.shape != right.shape or found.dtype != right.dtype:
            what = "is missing" if found is None else f"is {found.dtype}{list(found.shape)}"
            raise ExportError(f"output {name!r} {what} in {place}, expected {right.dtype}{list(right.shape)}")
    error = largest_error(outputs, expected)
    if not error <= limit:
        raise ExportError(
            f"in {place} the largest error of an output is {error:.1e} of its magnitude, more than {limit:.0e}",
            hint="the model may run as an onnx package elsewhere",
        )
    return f"largest error {error:.1e}"
