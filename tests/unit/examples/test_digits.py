"""The shipped digits model, held against its own files without any of our sessions: ONNX Runtime alone runs it."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
import torch

from runoff.models.arrays import read_npz
from runoff.models.evaluation import read_evaluation, read_labels, top1_accuracy
from runoff.models.folder import check_file, read_folder
from runoff.tasks.base import task_for

ROOT = Path(__file__).parents[3] / "examples" / "digits"
FOLDER = read_folder(ROOT)
MAX_FILE_BYTES = 1_000_000


@pytest.fixture(scope="module")
def onnx() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(FOLDER.package("onnx-fp32").main_file, providers=["CPUExecutionProvider"])


def test_every_file_is_the_one_that_the_manifest_describes():
    assert {file.path: check_file(ROOT, file) for file in FOLDER.manifest.files()} == {
        file.path: "ok" for file in FOLDER.manifest.files()
    }


def test_the_manifest_has_the_reference_and_a_package_for_the_base_install():
    assert FOLDER.manifest.reference == "torch-fp32"
    assert [package.id for package in FOLDER.packages] == ["torch-fp32", "onnx-fp32"]
    assert str(FOLDER.manifest.signature.inputs[0]) == "image: fp32[batch, 1, 8, 8]"
    assert str(FOLDER.manifest.signature.outputs[0]) == "logits: fp32[batch, 10]"
    assert read_labels(FOLDER) == tuple("0123456789")


def test_held_out_accuracy_is_what_the_readme_says(onnx: onnxruntime.InferenceSession):
    data = read_evaluation(FOLDER)
    (logits,) = onnx.run(None, data.inputs)
    accuracy = top1_accuracy({"logits": logits}, data.labels)
    assert len(data) >= 350
    assert accuracy >= 0.97
    said = re.search(r"held-out accuracy is \*\*([\d.]+) %\*\*", (ROOT / "README.md").read_text())
    assert said is not None
    assert f"{accuracy:.2%}" == f"{said[1]}%"


@pytest.mark.parametrize("digit", range(10))
def test_every_picture_is_recognised(onnx: onnxruntime.InferenceSession, digit: int):
    task = task_for(FOLDER.manifest, FOLDER)
    (logits,) = onnx.run(None, task.prepare(ROOT / "images" / f"{digit}.png"))
    (prediction,) = task.predict({"logits": logits})
    assert prediction.to_dict()["label"] == str(digit)


@pytest.mark.parametrize("digit", range(10))
def test_every_picture_becomes_the_held_out_scan_that_it_was_drawn_from(digit: int):
    data = read_evaluation(FOLDER)
    prepared = task_for(FOLDER.manifest, FOLDER).prepare(ROOT / "images" / f"{digit}.png")["image"]
    distances = np.abs(data.inputs["image"] - prepared).max(axis=(1, 2, 3))
    # A picture has 255 steps, so it is off by half a step at most.
    assert distances.min() <= 0.5 / 255 + 1e-6
    assert data.labels[distances.argmin()] == digit


def test_the_golden_pair_is_what_onnx_computes(onnx: onnxruntime.InferenceSession):
    golden = FOLDER.manifest.golden
    assert golden is not None
    (logits,) = onnx.run(None, read_npz(FOLDER.file(golden.inputs)))
    np.testing.assert_allclose(logits, read_npz(FOLDER.file(golden.outputs))["logits"], atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3])
def test_any_batch_runs(onnx: onnxruntime.InferenceSession, rows: int):
    assert onnx.run(None, {"image": np.zeros((rows, 1, 8, 8), np.float32)})[0].shape == (rows, 10)


def test_the_archive_holds_the_shipped_weights():
    weights = safetensors.numpy.load_file(ROOT / "weights.safetensors")
    program = torch.export.load(FOLDER.reference.main_file)
    archived = {name.removeprefix("module."): tensor for name, tensor in program.state_dict.items()}
    trained = {name: weights[name] for name in weights if not name.endswith("num_batches_tracked")}
    assert trained.keys() <= archived.keys()
    for name, array in trained.items():
        np.testing.assert_array_equal(archived[name].detach().numpy(), array)


def test_the_network_is_as_large_as_it_says():
    source = (ROOT / "net.py").read_text()
    said = re.search(r"([\d ]+) parameters", source)
    trained = safetensors.numpy.load_file(ROOT / "weights.safetensors")
    learned = {name: array for name, array in trained.items() if "running_" not in name and "num_batches" not in name}
    assert said is not None
    assert int(said[1].replace(" ", "")) == sum(array.size for array in learned.values())


def shipped_files() -> list[Path]:
    named = [ROOT / file.path for file in FOLDER.manifest.files()]
    return [*named, ROOT / "weights.safetensors", *sorted((ROOT / "images").glob("*.png"))]


@pytest.mark.parametrize("path", shipped_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_is_large_or_tells_where_it_was_made(path: Path):
    data = path.read_bytes()
    assert len(data) < MAX_FILE_BYTES
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            data = b"".join(archive.read(name) for name in archive.namelist())
    assert not re.search(rb"site-packages|/home/|/root/|/tmp/|train\.py|net\.py", data)


def test_the_same_folder_comes_out_when_it_is_built_again_from_the_weights(tmp_path: Path):
    command = [sys.executable, str(ROOT / "train.py"), "--from-weights", "--folder", str(tmp_path / "digits")]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    again = read_folder(tmp_path / "digits")
    for name in ("weights.safetensors", *(f"images/{digit}.png" for digit in range(10))):
        assert (again.root / name).read_bytes() == (ROOT / name).read_bytes(), name
    assert again.manifest.signature == FOLDER.manifest.signature
    assert again.manifest.evaluation == FOLDER.manifest.evaluation
    assert again.manifest.labels == FOLDER.manifest.labels
    assert again.manifest.preprocess == FOLDER.manifest.preprocess
