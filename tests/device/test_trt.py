"""TensorRT engines from end to end: built here, opened, run in every shape of their profiles, and refused elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper

from conformance.builders import NETS
from device import needs
from device.engines import build_engine
from fakes.onnx_models import onnx_folder
from fakes.packages import spec
from runoff.backends import table
from runoff.backends.protocol import Session, SessionOptions
from runoff.cli.app import run
from runoff.errors import InputError, RuntimeLoadError
from runoff.export.adopt import adopt
from runoff.models.folder import ModelFolder, Package, read_folder
from runoff.types import Device, Precision, Signature

pytestmark = pytest.mark.skipif(needs.tensorrt() is not None, reason=str(needs.tensorrt()))
NET = NETS["conv"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _open(package: Package, **options: bool) -> Session:
    return table.backend("trt").open(package, SessionOptions(Device("cuda"), backend=options))


def _relative_error(session: Session, rows: int) -> float:
    inputs = NET.inputs(rows)
    wanted, answer = NET.reference(inputs), session.run(inputs)
    return max(float(np.abs(answer[name] - wanted[name]).max() / np.abs(wanted[name]).max()) for name in wanted)


@pytest.mark.parametrize(("precision", "limit"), [(Precision.FP32, 1e-5), (Precision.FP16, 1e-2)])
def test_engine_answers_as_the_reference(tmp_path: Path, precision: Precision, limit: float) -> None:
    session = _open(build_engine(tmp_path, NET, precision))
    assert session.facts["precision"] == precision.value
    assert all(_relative_error(session, rows) <= limit for rows in (1, 2, 32, 1, 7))


def test_rows_outside_the_profiles_are_refused_with_the_ranges(tmp_path: Path) -> None:
    session = _open(build_engine(tmp_path, NET))
    with pytest.raises(InputError, match=r"outside the shapes .* image \[1\.\.32, 3, 16, 16\]"):
        session.run(NET.inputs(33))
    assert _relative_error(session, 4) <= 1e-5


def test_fixed_batch_takes_that_batch_only(tmp_path: Path) -> None:
    session = _open(build_engine(tmp_path, NET, batch=4))
    assert _relative_error(session, 4) <= 1e-5
    with pytest.raises(InputError, match="axis 0 must be 4"):
        session.run(NET.inputs(2))


def test_graphs_of_more_shapes_than_are_kept_answer_rightly(tmp_path: Path) -> None:
    session = _open(build_engine(tmp_path, NET), cuda_graph=True)
    for _ in range(2):
        assert all(_relative_error(session, rows) <= 1e-5 for rows in range(1, 12))
    session.close()


def test_engine_of_another_version_or_gpu_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    package = build_engine(tmp_path, NET)
    for name, value, why in (
        ("tensorrt", "9.9.9", "built with TensorRT 9.9.9"),
        ("compute_capability", "1.0", "built for compute capability 1.0"),
    ):
        entry = msgspec.structs.replace(package.entry, requires={**package.entry.requires, name: value})
        with pytest.raises(RuntimeLoadError, match=why) as caught:
            _open(Package(package.root, entry, package.signature))
        assert "runoff export MODEL --to trt --force" in (caught.value.hint or "")


def test_engine_of_unknown_origin_is_refused_unless_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = build_engine(tmp_path, NET)
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "elsewhere"))
    with pytest.raises(RuntimeLoadError, match="machine code that was not compiled on this machine"):
        _open(package)
    monkeypatch.setenv("RUNOFF_TRUST_COMPILED", "1")
    assert _relative_error(_open(package), 2) <= 1e-5


def test_damaged_engine_is_refused_with_what_tensorrt_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNOFF_TRUST_COMPILED", "1")
    package = build_engine(tmp_path, NET)
    package.main_file.write_bytes(package.main_file.read_bytes()[:1000])
    with pytest.raises(RuntimeLoadError, match=r"TensorRT [\d.]+ cannot load model\.engine: ") as caught:
        _open(package)
    assert "does not say why" not in caught.value.message


def test_bare_engine_with_its_note_becomes_a_model(tmp_path: Path) -> None:
    package = build_engine(tmp_path, NET, Precision.FP16)
    folder = adopt(package.main_file)
    assert folder.manifest.signature == NET.signature
    assert folder.reference.entry.precision is Precision.FP16


def test_second_build_reads_the_timing_cache(tmp_path: Path, cache: Path) -> None:
    build_engine(tmp_path / "first", NET)
    kept = list((cache / "timing").iterdir())
    assert len(kept) == 1 and kept[0].stat().st_size > 0
    build_engine(tmp_path / "second", NET)


@pytest.fixture
def classifier(tmp_path: Path) -> ModelFolder:
    """Eight features to four scores, with 256 labelled rows that it answers rightly."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in (("w", (8, 32)), ("v", (32, 4)))}
    nodes: list[onnx.NodeProto] = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"], "second"),
    ]
    rows = rng.standard_normal((256, 8)).astype(np.float32)
    labels = (np.maximum(rows @ weights["w"], 0) @ weights["v"]).argmax(1)
    signature = Signature((spec("x", "batch", 8),), (spec("y", "batch", 4),))
    return onnx_folder(tmp_path / "net", nodes, signature, weights, evaluation=({"x": rows}, labels))


def _run(*arguments: str) -> object:
    with pytest.raises(SystemExit) as caught:
        run(list(arguments))
    return caught.value.code


def test_int8_engine_is_built_from_a_symmetric_graph(
    classifier: ModelFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(classifier.root)
    quantised = (
        "--precision",
        "int8-static",
        "--backend",
        "onnx",
        "--symmetric",
        "--max-metric-drop",
        "10pp",
        "--json",
    )
    assert _run("quantize", root, *quantised) == 0
    assert _run("export", root, "--to", "trt", "--precision", "int8", "--json") == 0
    capsys.readouterr()
    session = _open(read_folder(classifier.root).package("trt-int8"))
    rows = np.load(classifier.root / "inputs.npz")["x"][:32]
    labels = np.load(classifier.root / "labels.npy")[:32]
    assert (session.run({"x": rows})["y"].argmax(1) == labels).mean() >= 0.9


def test_exported_engine_says_what_it_was_built_for_and_races(
    classifier: ModelFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(classifier.root)
    assert _run("export", root, "--to", "trt", "--precision", "fp16", "--json") == 0
    entry = read_folder(classifier.root).package("trt-fp16").entry
    assert {"platform", "tensorrt", "compute_capability"} <= set(entry.requires)
    assert entry.made_by is not None
    assert {"gpu", "profiles", "opset", "narrowed"} <= set(entry.made_by.details)
    capsys.readouterr()
    assert _run("race", root, "--device", "cuda", "--rounds", "1", "--backend", "onnx,trt", "--json") == 0
    assert "trt-fp16" in json.dumps(json.loads(capsys.readouterr().out))
