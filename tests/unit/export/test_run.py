from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import psutil
import pytest
import torch

import runoff
from fakes.converters import only
from fakes.networks import BatchBound, ConvNet, Mlp
from runoff.backends import table
from runoff.backends.protocol import SessionOptions
from runoff.errors import ExportError
from runoff.export.onnx import save_model
from runoff.export.packaging import PackagingOptions
from runoff.export.run import ExportOptions, export_package
from runoff.models.arrays import Arrays
from runoff.models.folder import ModelFolder, Package, read_folder
from runoff.models.manifest import MANIFEST_NAME
from runoff.models.samples import generate_inputs
from runoff.settings import child_environment
from runoff.types import Precision

FP32, FP16 = Precision.FP32, Precision.FP16
TESTS = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A packaged convolutional net, to be copied, not changed."""
    torch.manual_seed(0)
    example = {"image": torch.randn(2, 1, 8, 8), "scale": torch.ones(2, 1)}
    root = tmp_path_factory.mktemp("models") / "conv"
    return runoff.package(ConvNet(), example, root, options=PackagingOptions(outputs=["logits", "features"]))


@pytest.fixture(scope="module")
def exported(packaged: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """The same net in every other format."""
    root = tmp_path_factory.mktemp("exported") / "conv"
    shutil.copytree(packaged.root, root)
    folder = export_package(read_folder(root), "onnx", FP32)
    folder = export_package(folder, "onnx", FP16)
    return export_package(folder, "openvino", FP32)


@pytest.fixture
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelFolder]:
    torch.manual_seed(0)
    yield runoff.package(Mlp(), torch.randn(2, 4), tmp_path_factory.mktemp("models") / "mlp")


def _run(package: Package, inputs: Arrays) -> Arrays:
    with ExitStack() as stack:
        session = table.backend(package.entry.backend).open(package, SessionOptions())
        stack.callback(session.close)
        return session.run(inputs)


def _snapshot(root: Path) -> dict[str, bytes]:
    """Every file but the lock."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".runoff.lock"
    }


@pytest.mark.parametrize(
    ("package_id", "tolerance"), [("onnx-fp32", 1e-5), ("openvino-fp32", 1e-5), ("onnx-fp16", 1e-2)]
)
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_outputs_equal_the_reference_at_any_batch(
    exported: ModelFolder, package_id: str, tolerance: float, rows: int
) -> None:
    inputs = generate_inputs(exported.manifest.signature, rows=rows, seed=3)
    expected = _run(exported.reference, inputs)
    found = _run(exported.package(package_id), inputs)
    assert list(found) == ["logits", "features"]
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert np.allclose(found[name], array, rtol=tolerance, atol=tolerance)


def test_onnx_file_carries_the_names_of_the_signature_and_no_local_path(exported: ModelFolder) -> None:
    path = exported.package("onnx-fp32").main_file
    graph = onnx.load(path).graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {
        "image": ["batch", 1, 8, 8],
        "scale": ["batch", 1],
        "logits": ["batch", 10],
        "features": ["batch", 4, 6, 6],
    }
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    assert str(TESTS).encode() not in path.read_bytes()


def test_weights_lie_beside_the_file_when_they_pass_the_limit(exported: ModelFolder, tmp_path: Path) -> None:
    model = onnx_ir.load(exported.package("onnx-fp32").main_file)
    assert save_model(model, tmp_path, limit_bytes=100) == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert onnx.load(tmp_path / "model.onnx").graph.initializer[0].raw_data


def test_manifest_says_what_made_each_package(exported: ModelFolder) -> None:
    entry = exported.package("onnx-fp32").entry
    assert entry.made_by is not None
    assert (entry.made_by.tool, entry.made_by.source) == ("torch.onnx", "torch-fp32")
    assert entry.made_by.versions["torch"] == str(torch.__version__)
    assert entry.requires == {"opset": 20}
    for package in read_folder(exported.root).packages:
        package.verify()


def test_package_is_reused_when_it_is_there(exported: ModelFolder) -> None:
    steps: list[str] = []
    assert export_package(exported, "onnx", FP32, ExportOptions(on_step=steps.append)) is exported
    assert steps == []


def test_package_is_made_again_when_forced(exported: ModelFolder) -> None:
    steps: list[str] = []
    options = ExportOptions(force=True, on_step=steps.append)
    again = export_package(exported, "openvino", FP32, options)
    assert steps == ["onnx at fp32 -> openvino at fp32"]
    assert [package.id for package in again.packages] == [package.id for package in exported.packages]
    again.package("openvino-fp32").verify()


def test_reference_is_never_replaced_when_forced(mlp: ModelFolder) -> None:
    assert export_package(mlp, "torch-export", FP32, ExportOptions(force=True)) is mlp


def test_package_has_the_batch_asked_for_when_it_is_fixed(mlp: ModelFolder) -> None:
    folder = export_package(mlp, "onnx", FP32, ExportOptions(batch=4))
    package = folder.package("onnx-fp32-b4")
    assert package.entry.batch == 4
    dims = onnx.load(package.main_file).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [4, 4]
    inputs = generate_inputs(mlp.manifest.signature, rows=4, seed=0)
    assert np.allclose(_run(package, inputs)["output_0"], _run(mlp.reference, inputs)["output_0"], atol=1e-5)


def test_fixed_batch_of_the_reference_is_inherited_and_no_other_is_made(tmp_path: Path) -> None:
    folder = runoff.package(BatchBound(3), torch.randn(3, 4), tmp_path / "m", options=PackagingOptions(batch=3))
    folder = export_package(folder, "openvino", FP32)
    assert folder.package("openvino-fp32").entry.batch == 3
    with pytest.raises(ExportError, match="only packages made for batch 3, asked for batch dynamic"):
        export_package(folder, "onnx", FP32, ExportOptions(batch="dynamic"))


def test_weights_beside_a_class_are_exported_through_torch_export(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = PackagingOptions(keep="code", arguments={"hidden": 5})
    folder = runoff.package(Mlp(5), torch.randn(2, 4), tmp_path / "m", options=options)
    made = export_package(folder, "openvino", FP32)
    assert [package.id for package in made.packages] == ["torch-fp32", "torch-export-fp32", "openvino-fp32"]
    inputs = generate_inputs(made.manifest.signature, rows=5, seed=0)
    outputs = [_run(package, inputs)["output_0"] for package in made.packages]
    assert all(np.allclose(array, outputs[0], atol=1e-5) for array in outputs)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("crash", "the converter crashed with SIGSEGV"),
        ("hang", "the converter hung: no answer to 'export' within 2 s"),
        ("lie", "did not make the file that it names"),
        ("garbage", "model.onnx"),
        ("not_a_number", "values that are NaN or infinite"),
    ],
)
def test_folder_is_as_it_was_when_a_converter_fails(mlp: ModelFolder, fault: str, message: str) -> None:
    before = _snapshot(mlp.root)
    timeout_s = 2.0 if fault == "hang" else None
    with pytest.raises(ExportError, match=message):
        export_package(mlp, "onnx", FP32, ExportOptions(steps=only(fault), timeout_s=timeout_s))
    assert _snapshot(mlp.root) == before


def test_converter_is_stopped_when_it_takes_too_much_memory(mlp: ModelFolder) -> None:
    with pytest.raises(ExportError, match=r"used \d+ MiB of memory, more than 400"):
        export_package(mlp, "onnx", FP32, ExportOptions(steps=only("hog"), max_memory_bytes=400 << 20))


def test_earlier_steps_are_kept_when_a_later_one_fails(tmp_path: Path) -> None:
    folder = runoff.package(Mlp(), torch.randn(2, 4), tmp_path / "m", options=PackagingOptions(keep="code"))
    with pytest.raises(ExportError, match="crashed"):
        export_package(folder, "onnx", FP32, ExportOptions(steps=only("crash")))
    assert [package.id for package in read_folder(folder.root).packages] == ["torch-fp32", "torch-export-fp32"]


def test_damaged_source_is_refused_before_it_is_converted(mlp: ModelFolder) -> None:
    mlp.reference.main_file.write_bytes(b"something else")
    with pytest.raises(ExportError, match="truncated"):
        export_package(mlp, "onnx", FP32)


def test_folder_is_valid_and_clean_after_a_kill(mlp: ModelFolder) -> None:
    script = (
        "from pathlib import Path; from fakes.converters import only\n"
        "from runoff.export.run import ExportOptions, export_package\n"
        "from runoff.models.folder import read_folder; from runoff.types import Precision\n"
        f"folder = read_folder(Path({str(mlp.root)!r}))\n"
        "export_package(folder, 'onnx', Precision.FP32, ExportOptions(steps=only('hang')))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], env=child_environment(PYTHONPATH=str(TESTS)))
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in mlp.root.glob(".staging-*/model.onnx")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert gone and not alive
    folder = read_folder(mlp.root)
    folder.reference.verify()
    made = export_package(folder, "openvino", FP32)
    made.package("openvino-fp32").verify()
    assert not list(mlp.root.glob(".staging-*"))
    assert (mlp.root / MANIFEST_NAME).is_file()


def test_onnx_is_refused_by_name_when_nothing_leads_there(exported: ModelFolder) -> None:
    with pytest.raises(ExportError, match="to onnx at int8") as caught:
        export_package(exported, "onnx", Precision.INT8)
    assert caught.value.hint is not None


def test_caller_imports_no_runtime_when_it_exports(mlp: ModelFolder) -> None:
    script = (
        "import sys; from pathlib import Path; from runoff.export.run import export_package\n"
        "from runoff.models.folder import read_folder; from runoff.types import Precision\n"
        f"export_package(read_folder(Path({str(mlp.root)!r})), 'openvino', Precision.FP32)\n"
        "loaded = {'torch', 'onnx', 'onnxruntime', 'openvino', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
