"""One body over every backend, format and precision that runs here: what a `Session` promises, held to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import openvino as ov
import pytest

from conformance.builders import NETS, Net, build
from fakes.javascript import javascript_cache
from runoff.backends import table
from runoff.backends.protocol import PrecisionHint, Session, SessionOptions
from runoff.environment.libraries import is_importable
from runoff.errors import InputError, RunoffError, RuntimeLoadError, SessionClosed, UnknownName
from runoff.models.arrays import Array, numpy_dtype
from runoff.models.folder import Package
from runoff.types import Device, DType, Precision, Signature, TensorSpec

TOLERANCE = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 4e-2, "int8": 4e-2}
"""Largest error over the largest magnitude of the output, about four roundings of the precision."""

RUNTIMES = (
    "torch",
    "onnxruntime",
    "openvino",
    "transformers",
    "litert",
    "executorch",
    "ncnn",
    "iree",
    "mediapipe",
    "onnxruntime-web",
    "tfjs",
)


@dataclass(frozen=True)
class Case:
    """A backend opening one model in one form with one precision hint and one set of options."""

    backend: str
    form: str
    net: str
    precision: PrecisionHint = None
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        wishes = [str(self.precision or ""), *self.options]
        return "-".join(part for part in (self.backend, self.form, self.net, *wishes) if part)

    def session_options(self, num_threads: int = 1) -> SessionOptions:
        return SessionOptions(num_threads=num_threads, precision=self.precision, backend=self.options)


def _cases() -> Iterator[Case]:
    for net in ("mlp", "conv", "pooler"):
        yield Case("torch", "torch-export", net)
        yield Case("torch", "torch-export", net, Precision.BF16)
        yield Case("torch", "safetensors", net)
        yield Case("onnx", "onnx", net)
        yield Case("openvino", "openvino", net)
        yield Case("openvino", "openvino", net, "default")
        yield Case("openvino", "onnx", net)
    for net in ("mlp", "conv"):
        yield Case("onnx", "onnx/fp16", net)
        yield Case("torch", "torchscript", net)
        yield Case("ncnn", "ncnn", net)
    for net in ("mlp", "conv", "pooler", "vit"):
        yield Case("iree", "iree", net)
    yield Case("mediapipe", "mediapipe", "picture")
    yield Case("torch", "aoti", "conv")
    yield Case("torch", "aoti/bf16", "pooler")
    yield Case("torch", "torch-export", "pooler", Precision.FP16)
    yield Case("torch", "torch-export", "pooler", None, {"compile": True})
    yield Case("torch", "torch-export", "pooler", Precision.BF16, {"compile": True, "freeze": False})
    yield Case("torch", "safetensors", "conv", Precision.BF16)
    yield Case("onnx", "onnx", "pooler", None, {"io_binding": True})
    for net in ("bert", "vit"):
        yield Case("hf", "hf", net)
        yield Case("onnx", "onnx-fused", net)
        yield Case("hf", "hf", net, Precision.BF16)
        yield Case("hf", "hf", net, None, {"attn_implementation": "eager"})
    for net in ("mlp", "conv", "pooler"):
        yield Case("litert", "litert", net)
        yield Case("executorch", "executorch", net)
    for net in ("mlp", "conv"):
        yield Case("litert", "litert/int8", net)
        yield Case("executorch", "executorch/int8", net)
    yield Case("ort-web", "web", "pooler")
    yield Case("tfjs", "tfjs", "conv")
    yield Case("tfjs", "tfjs", "pooler")
    if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        yield Case("openvino", "openvino", "conv", Precision.BF16)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=list(_cases()), ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    row = table.row(request.param.backend)
    if row.library is not None and not is_importable(row.library):
        pytest.skip(f"{row.title} is not installed: pip install 'runoff[{row.extra}]'")
    return request.param


@pytest.fixture(scope="module")
def net(case: Case) -> Net:
    return NETS[case.net]


@pytest.fixture(scope="module", autouse=True)
def javascript(case: Case) -> Iterator[None]:
    """The cache with the JavaScript packages, for the backends that are JavaScript."""
    with pytest.MonkeyPatch.context() as patch:
        if case.backend in ("ort-web", "tfjs"):
            patch.setenv("RUNOFF_CACHE", str(javascript_cache(case.backend)))
        yield


@pytest.fixture(scope="module")
def package(case: Case, net: Net, root: Path, javascript: None) -> Package:
    return build(root, net, case.form)


@pytest.fixture(scope="module")
def session(case: Case, package: Package) -> Iterator[Session]:
    opened = table.backend(case.backend).open(package, case.session_options())
    yield opened
    opened.close()


def assert_close(session: Session, outputs: dict[str, Array], expected: dict[str, Array]) -> None:
    """Names, dtypes and shapes are equal; floats are within the tolerance of the session's precision."""
    assert list(outputs) == [spec.name for spec in session.signature.outputs]
    for spec in session.signature.outputs:
        got, want = outputs[spec.name], expected[spec.name]
        assert (got.dtype, got.shape) == (numpy_dtype(spec.dtype), want.shape)
        if spec.dtype is DType.INT64:
            np.testing.assert_array_equal(got, want)
        else:
            error = np.abs(got - want).max() / np.abs(want).max()
            assert error <= TOLERANCE[session.facts["precision"]], spec.name


def test_signature_is_the_packages(session: Session, package: Package) -> None:
    assert isinstance(session, Session)
    assert session.signature == package.signature


def test_file_tells_its_signature(case: Case, package: Package) -> None:
    format_id = package.entry.format
    if format_id == "safetensors":
        pytest.skip("safetensors hold weights without a signature")
    path = package.folder if format_id == "hf" else package.main_file
    assert table.backend(case.backend).read_signature(format_id, path) == _told(case.backend, package.signature)


def _told(backend: str, signature: Signature) -> Signature:
    """What a file can tell of a signature: LiteRT holds 32-bit integers, ExecuTorch has no names."""

    def told(kind: str, number: int, spec: TensorSpec) -> TensorSpec:
        name = f"{kind}_{number}" if backend == "executorch" else spec.name
        dtype = DType.INT32 if backend == "litert" and spec.dtype is DType.INT64 else spec.dtype
        return TensorSpec(name, dtype, spec.shape)

    return Signature(
        tuple(told("input", number, spec) for number, spec in enumerate(signature.inputs)),
        tuple(told("output", number, spec) for number, spec in enumerate(signature.outputs)),
    )


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_outputs_match_the_reference(session: Session, net: Net, rows: int) -> None:
    inputs = net.inputs(rows, seed=rows)
    fixed = session.signature.inputs[0].shape[0]
    if isinstance(fixed, int) and fixed != rows:
        with pytest.raises(InputError, match=f"axis 0 must be {fixed}"):
            session.run(inputs)
        return
    assert_close(session, session.run(inputs), net.reference(inputs))


def test_outputs_belong_to_the_caller(session: Session, net: Net) -> None:
    inputs = net.inputs(2)
    first = session.run(inputs)
    kept = {name: array.copy() for name, array in first.items()}
    session.run(net.inputs(2, seed=1))
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])
        array[...] = 0
    again = session.run(inputs)
    for name, array in again.items():
        np.testing.assert_allclose(array, kept[name], rtol=1e-6, atol=1e-6)
        assert not any(np.shares_memory(array, given) for given in inputs.values())


def test_inputs_stay_as_they_are(session: Session, net: Net) -> None:
    inputs = net.inputs(2)
    session.run(inputs)
    for name, array in net.inputs(2).items():
        np.testing.assert_array_equal(inputs[name], array)


def test_read_only_inputs_are_accepted(session: Session, net: Net) -> None:
    inputs = net.inputs(2)
    for array in inputs.values():
        array.flags.writeable = False
    assert_close(session, session.run(inputs), net.reference(inputs))


def test_strided_inputs_are_accepted(session: Session, net: Net) -> None:
    inputs = net.inputs(2)
    # Every second row backwards: no runtime takes such strides as they are.
    strided = {name: np.repeat(array[::-1], 2, axis=0)[::-2] for name, array in inputs.items()}
    assert not any(array.flags.c_contiguous for array in strided.values())
    assert_close(session, session.run(strided), net.reference(inputs))


def test_unaligned_inputs_are_accepted(session: Session, net: Net) -> None:
    inputs = net.inputs(2)
    unaligned = {}
    for name, array in inputs.items():
        body = b"\0" + array.tobytes()
        unaligned[name] = np.frombuffer(body, array.dtype, offset=1).reshape(array.shape)
    assert_close(session, session.run(unaligned), net.reference(inputs))


def test_nan_is_taken_and_stays_in_its_row(session: Session, net: Net) -> None:
    inputs = net.inputs(2)
    for array in inputs.values():
        if array.dtype == np.float32:
            array[0].flat[0] = np.nan
    # Whether the first row shows it is the runtime's: OpenVINO's ReLU makes 0 of NaN.
    outputs = session.run(inputs)
    for spec in session.signature.outputs:
        assert not np.isnan(outputs[spec.name][1]).any()


def _bad_inputs(signature: Signature, good: dict[str, Array]) -> Iterator[tuple[str, dict[str, Array]]]:
    """Inputs that do not fit, each with a part of the message that tells why."""
    yield "missing", {name: good[name] for name in list(good)[1:]}
    yield "unknown surplus", {**good, "surplus": np.zeros(1, np.float32)}
    for spec in signature.inputs:
        array = good[spec.name]
        yield "expected a numpy array", {**good, spec.name: array.tolist()}  # type: ignore[dict-item]
        yield "has dtype float64", {**good, spec.name: array.astype(np.float64)}
        yield "of rank", {**good, spec.name: array[None]}
        yield ("is empty" if isinstance(spec.shape[0], str) else "axis 0 must be"), {**good, spec.name: array[:0]}
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, int):
                yield f"axis {axis} must be {dim}", {**good, spec.name: np.repeat(array, 2, axis)}
    if len(good) > 1:
        last = signature.inputs[-1].name
        batch = signature.inputs[0].shape[0]
        yield (
            ("elsewhere" if isinstance(batch, str) else "axis 0 must be"),
            {**good, last: np.repeat(good[last], 2, axis=0)},
        )


def test_inputs_that_do_not_fit_are_refused(session: Session, net: Net) -> None:
    good = net.inputs(2)
    for why, bad in _bad_inputs(session.signature, good):
        with pytest.raises(InputError, match=why):
            session.run(bad)
    assert_close(session, session.run(good), net.reference(good))


def test_facts_say_what_runs(session: Session, case: Case) -> None:
    facts = session.facts
    assert msgspec.json.decode(msgspec.json.encode(facts)) == facts
    assert facts["runtime"].split()[0] in RUNTIMES
    expected = case.form.partition("/")[2] or "fp32" if case.precision is None else case.precision
    if case.precision == "default":
        expected = facts["precision"]
    if case.backend == "openvino" and expected == "fp16":
        expected = "fp32"
    assert facts["precision"] == expected
    assert facts["device"].lower() == "cpu"


@pytest.mark.parametrize("num_threads", [1, 2])
def test_threads_are_those_asked_for(
    session: Session, case: Case, package: Package, net: Net, num_threads: int
) -> None:
    one_thread = {"executorch": "one thread pool", "mediapipe": "on one thread", "tfjs": "one thread"}
    only = one_thread.get(case.backend)
    if only is not None and num_threads != session.facts["threads"]:
        with pytest.raises(RuntimeLoadError, match=only):
            table.backend(case.backend).open(package, case.session_options(num_threads))
        return
    opened = table.backend(case.backend).open(package, case.session_options(num_threads))
    try:
        assert opened.facts["threads"] == num_threads
        if not case.options.get("compile"):
            assert_close(opened, opened.run(net.inputs(2)), net.reference(net.inputs(2)))
    finally:
        opened.close()


def test_right_answers_when_several_threads_run(session: Session, net: Net) -> None:
    if session.concurrency == "exclusive":
        pytest.skip("the session says that it takes one run at a time")
    batches = [net.inputs(1 + seed % 3, seed=seed) for seed in range(16)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(session.run, batches))
    for inputs, outputs in zip(batches, answers, strict=True):
        assert_close(session, outputs, net.reference(inputs))


def test_run_is_refused_after_close(case: Case, package: Package, net: Net) -> None:
    opened = table.backend(case.backend).open(package, case.session_options())
    opened.close()
    opened.close()
    with pytest.raises(SessionClosed):
        opened.run(net.inputs(1))


def test_unknown_option_is_refused(case: Case, package: Package) -> None:
    with pytest.raises(UnknownName, match="known: "):
        table.backend(case.backend).open(package, SessionOptions(backend={"nonsense": 1}))


def test_device_that_is_not_there_is_refused(case: Case, package: Package) -> None:
    with pytest.raises(RuntimeLoadError):
        table.backend(case.backend).open(package, SessionOptions(device=Device("cuda", 63)))


def test_no_threads_are_refused(case: Case, package: Package) -> None:
    with pytest.raises(RuntimeLoadError, match="num_threads is 0"):
        table.backend(case.backend).open(package, SessionOptions(num_threads=0))


def test_truncated_file_is_refused(case: Case, package: Package, tmp_path: Path) -> None:
    for file in package.entry.files:
        copy = tmp_path / file.sha256
        shutil.copytree(package.root / package.id, copy / package.id, copy_function=os.link)
        damaged = copy / file.path
        half = damaged.read_bytes()[: file.bytes // 2]
        damaged.unlink()
        damaged.write_bytes(half)
        broken = Package(copy, package.entry, package.signature)
        with pytest.raises(RunoffError) as caught:
            table.backend(case.backend).open(broken, case.session_options())
        assert caught.value.hint
