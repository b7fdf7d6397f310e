"""The body of the isolated process that converts, opens and reads foreign files; `run.py` and `adopt.py` start it.

Knows no runtime itself: steps and backends are loaded by name. Whatever happens here, the caller lives on.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from runoff.backends import table
from runoff.backends.protocol import Session, SessionOptions
from runoff.child import serve
from runoff.errors import ExportError, InputError, RunoffError
from runoff.export.step import Made, StepOptions
from runoff.models.arrays import Array, Arrays, InputCheck, batch_size, dtype_name, read_npz, write_npz
from runoff.models.dimensions import batch_dimension, fixed_sizes, signature_of, with_sizes
from runoff.models.folder import Package
from runoff.models.manifest import PackageEntry
from runoff.models.samples import generate_inputs, resize_rows, take_rows
from runoff.types import DType, Precision, Signature

_SMALL_LIMIT = 2
"""Integers below it are valid for any table that a model looks them up in."""
_ANSWER_ROWS = 16
_STORED_PRECISION = {
    "onnx": "runoff.export.onnx:stored_precision",
    "openvino": "runoff.export.openvino:stored_precision",
    "litert": "runoff.export.litert:stored_precision",
    "trt": "runoff.backends.engine:stored_precision",
    "mlpackage": "runoff.export.coreml:stored_precision",
}
_FACTS = {"mediapipe": "runoff.backends.mediapipe_task:task_facts"}
"""Formats whose files say more of a model than its signature: task, preprocess, labels, precision."""
_INTEGERS = {DType.INT64, DType.INT32, DType.INT16, DType.INT8, DType.UINT8, DType.UINT16, DType.UINT32, DType.UINT64}


def export(package: dict[str, Any], target: str, destination: str, options: dict[str, Any]) -> Mapping[str, Any]:
    """Run one step: the package becomes files in `destination`; answers a `Made`."""
    source = _package(package)
    source.verify()
    made = table.load(target)(source, Path(destination), msgspec.convert(options, StepOptions))
    if not isinstance(made, Made) or not (Path(destination) / made.main_file).is_file():
        raise ExportError(f"the step {target} did not make the file that it names")
    return _plain(made)


def check(package: dict[str, Any], inputs: str | None, outputs: str | None) -> Mapping[str, Any]:
    """Open a fresh package once and refuse it when it is plainly broken; fidelity is measured elsewhere.

    Args:
        package: the package with its files where they were made, and the signature of the model.
        inputs: .npz of golden inputs; None to generate some.
        outputs: .npz of the reference's outputs on them.
    """
    made = _package(package)
    row = table.row(made.entry.backend)
    if row.check is not None and not row.runs_on(sys.platform):
        table.load(row.check)(made)
        return {}
    # Its batch stays named here, so that the golden rows can be cut or repeated to what the files were made for.
    signature = with_sizes(made.signature, fixed_sizes(made.entry))
    given, expected = _check_inputs(signature, inputs, outputs)
    rows = batch_size(signature, given)
    dynamic = made.entry.batch == "dynamic" and batch_dimension(signature) is not None
    counts = sorted({rows, 1, rows + 1}, key=lambda count: count != rows) if dynamic else [made.entry.batch]
    fixed = Package(made.root, made.entry, signature_of(made.entry, made.signature))
    session = table.backend(made.entry.backend).open(fixed, _session_options(fixed))
    try:
        for count in counts:
            resized = resize_rows(signature, given, count) if isinstance(count, int) else dict(given)
            _check_once(session, signature, resized, expected if count == rows else {})
    finally:
        session.close()
    return {}


def answer(package: dict[str, Any], inputs: str, outputs: str, batched: list[str]) -> Mapping[str, Any]:
    """Open a package, run every row of a file, and write the outputs to another.

    Args:
        package: the package with its files where they were made.
        inputs: .npz of inputs by name.
        outputs: where the .npz of outputs goes.
        batched: the inputs that have a row for each sample.
    """
    given, arrays = _package(package), read_npz(Path(inputs))
    size = given.entry.batch if isinstance(given.entry.batch, int) else _ANSWER_ROWS
    total = max((len(arrays[name]) for name in batched), default=1)
    session = table.backend(given.entry.backend).open(given, _session_options(given))
    try:
        starts = range(0, total, size)
        # The last piece is filled up from the start: one shape throughout.
        parts = [session.run(take_rows(arrays, batched, np.arange(start, start + size) % total)) for start in starts]
    finally:
        session.close()
    joined = {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}
    write_npz(Path(outputs), {name: array[:total] if batched else array for name, array in joined.items()})
    return {}


def inspect(
    package: dict[str, Any], limits: dict[str, int], sizes: dict[str, int], rows: int, seed: int, golden: list[str]
) -> Mapping[str, Any]:
    """Read the signature of a bare package and let it answer generated inputs where its runtime exists.

    Args:
        package: as adopted; its signature is empty.
        limits, sizes: see `generate_inputs`.
        rows: rows of the golden pair, where the batch is dynamic.
        seed: seed of the golden inputs.
        golden: the paths to write inputs and outputs to.

    Returns:
        the signature, the precision of the weights or None, whether the golden pair was written, and what else the
        file says of the model.
    """
    bare = _package(package)
    backend = table.backend(bare.entry.backend)
    path = bare.folder if bare.entry.format == "hf" else bare.main_file
    signature = backend.read_signature(bare.entry.format, path)
    facts = table.load(_FACTS[bare.entry.format])(path) if bare.entry.format in _FACTS else {}
    own = Precision(facts["precision"]) if "precision" in facts else None
    entry = bare.entry if own is None else msgspec.structs.replace(bare.entry, precision=own)
    whole = Package(bare.root, entry, signature)
    pair = None
    if table.row(entry.backend).runs_on(sys.platform):
        session = backend.open(whole, _session_options(whole))
        try:
            pair = _golden(session, signature, rows, seed, limits, sizes)
        finally:
            session.close()
    if pair is not None:
        write_npz(Path(golden[0]), pair[0])
        write_npz(Path(golden[1]), pair[1])
    return {
        "signature": msgspec.to_builtins(signature),
        "precision": own or _stored_precision(bare),
        "golden": pair is not None,
        "facts": facts,
    }


def external_files(path: str) -> Mapping[str, Any]:
    """The weights files that an .onnx file refers to, relative to its folder."""
    return {"files": table.load("runoff.export.onnx:external_files")(Path(path))}


def weights(package: dict[str, Any]) -> Mapping[str, Any]:
    """How many weights of an ONNX graph lie in linear layers and in convolutions."""
    source = _package(package)
    counts: dict[str, int] = table.load("runoff.export.onnx:count_weights")(source.main_file)
    return counts


def _check_inputs(signature: Signature, inputs: str | None, outputs: str | None) -> tuple[Arrays, Arrays]:
    """The golden pair; generated inputs without outputs where there is none, or none of the sizes that were fixed."""
    if inputs and outputs:
        given = read_npz(Path(inputs))
        try:
            InputCheck(signature)(given)
        except InputError:
            pass
        else:
            return given, read_npz(Path(outputs))
    small = {spec.name: _SMALL_LIMIT for spec in signature.inputs if spec.dtype in _INTEGERS} if inputs else {}
    return generate_inputs(signature, rows=2, seed=0, limits=small), {}


def _golden(
    session: Session, signature: Signature, rows: int, seed: int, limits: dict[str, int], sizes: dict[str, int]
) -> tuple[Arrays, Arrays] | None:
    """Generated inputs and the answers to them; None for inputs that cannot be generated."""
    try:
        inputs = generate_inputs(signature, rows=rows, seed=seed, sizes=sizes, limits=limits)
    except InputError:
        return None
    try:
        return inputs, session.run(inputs)
    except RunoffError:
        # Token ids beyond a vocabulary of unknown size are the usual reason.
        small = {spec.name: _SMALL_LIMIT for spec in signature.inputs if spec.dtype in _INTEGERS}
        if not small:
            raise
        inputs = generate_inputs(signature, rows=rows, seed=seed, sizes=sizes, limits=small)
        return inputs, session.run(inputs)


def _session_options(package: Package) -> SessionOptions:
    return SessionOptions(table.row(package.entry.backend).first_device)


def _stored_precision(package: Package) -> Precision | None:
    target = _STORED_PRECISION.get(package.entry.format)
    if target is None:
        return None
    try:
        precision: Precision = table.load(target)(package.main_file)
    except ImportError:
        return None
    return precision


def _check_once(session: Session, signature: Signature, inputs: Arrays, expected: Arrays) -> None:
    rows = batch_size(signature, inputs)
    try:
        answer = session.run(inputs)
    except RunoffError as error:
        raise ExportError(
            f"the result was made but does not run at batch {rows}: {error.message}",
            hint="ask for a fixed batch size with batch=N",
        ) from error
    batch = batch_dimension(signature)
    for spec in signature.outputs:
        array = answer.get(spec.name)
        if array is None:
            raise ExportError(f"the result has no output {spec.name!r}; it has {', '.join(answer)}")
        wanted = [rows if dim == batch else dim for dim in spec.shape]
        fits = len(wanted) == array.ndim and all(
            isinstance(dim, str) or dim == size for dim, size in zip(wanted, array.shape, strict=True)
        )
        if not fits or dtype_name(array.dtype) is not spec.dtype:
            raise ExportError(
                f"the result answers {dtype_name(array.dtype)}{list(array.shape)} at batch {rows} for {spec}"
            )
        _check_finite(spec.name, array, expected.get(spec.name))


def _check_finite(name: str, array: Array, expected: Array | None) -> None:
    """Refuse NaN and infinities, except where the reference has them too."""
    if array.dtype.kind not in "fV" and dtype_name(array.dtype) is not DType.BF16:
        return
    broken = ~np.isfinite(array.astype(np.float64))
    if expected is not None and expected.shape == array.shape:
        broken &= np.isfinite(expected.astype(np.float64))
    if broken.any():
        raise ExportError(
            f"output {name!r} of the result has {int(broken.sum())} values that are NaN or infinite",
            hint="a narrow precision may overflow: export at fp32",
        )


def _package(given: dict[str, Any]) -> Package:
    entry = msgspec.convert(given["entry"], PackageEntry)
    return Package(Path(given["root"]), entry, msgspec.convert(given["signature"], Signature))


def _plain(value: object) -> Mapping[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain


if __name__ == "__main__":
    serve(
        {
            "export": export,
            "check": check,
            "answer": answer,
            "inspect": inspect,
            "weights": weights,
            "external_files": external_files,
        }
    )
