"""Labelled data held against the model that it belongs to, and accuracy."""

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from runoff.errors import DigestMismatch, FormatMismatch, InputError, ManifestInvalid, RunoffError
from runoff.models.arrays import write_npz
from runoff.models.evaluation import class_outputs, metric_for, read_evaluation, read_labels, top1_accuracy
from runoff.models.folder import ModelFolder, describe_file
from runoff.models.manifest import Evaluation, FileEntry, Manifest, PackageEntry
from runoff.types import DType, Precision, Signature, TensorSpec


def signature(batch: int | str = "batch", classes: int | str = 3) -> Signature:
    return Signature((TensorSpec("x", DType.FP32, (batch, 2)),), (TensorSpec("logits", DType.FP32, (batch, classes)),))


def make_folder(
    root: Path,
    inputs: dict[str, Any] | bytes,
    labels: Any,
    names: bytes | None = None,
    about: Signature | None = None,
) -> ModelFolder:
    """A folder with evaluation data; bytes are written as they are."""
    if isinstance(inputs, bytes):
        (root / "inputs.npz").write_bytes(inputs)
    else:
        write_npz(root / "inputs.npz", inputs)
    if isinstance(labels, bytes):
        (root / "labels.npy").write_bytes(labels)
    else:
        np.save(root / "labels.npy", labels)
    if names is not None:
        (root / "labels.txt").write_bytes(names)
    package = PackageEntry("a", "onnx", "onnx", Precision.FP32, (FileEntry("packages/a/m", "0" * 64, 0),))
    evaluation = Evaluation(describe_file(root, "inputs.npz"), describe_file(root, "labels.npy"))
    label_file = None if names is None else describe_file(root, "labels.txt")
    manifest = Manifest(1, "m", "a", about or signature(), (package,), labels=label_file, evaluation=evaluation)
    return ModelFolder(root, manifest)


def rows(count: int) -> dict[str, Any]:
    return {"x": np.zeros((count, 2), np.float32)}


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_inputs_and_labels_are_read(tmp_path: Path, dtype: Any):
    data = read_evaluation(make_folder(tmp_path, rows(3), np.array([0, 2, 1], dtype)))
    assert len(data) == 3
    assert data.inputs["x"].shape == (3, 2)
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [0, 2, 1]


def test_all_rows_are_read_when_the_model_has_a_fixed_batch(tmp_path: Path):
    folder = make_folder(tmp_path, rows(3), np.array([0, 2, 1]), about=signature(batch=1))
    assert len(read_evaluation(folder)) == 3


@pytest.mark.parametrize(
    ("inputs", "labels", "said"),
    [
        (rows(3), np.array([0, 1]), "3 rows of input 'x' and 2 labels"),
        (rows(0), np.array([], np.int64), "no rows"),
        (rows(2), np.array([0, 3]), "from 0 to 3, expected 0 to 2"),
        (rows(2), np.array([-1, 0]), "from -1 to 0, expected 0 to 2"),
        (rows(2), np.array([0.0, 1.0]), "one integer a row"),
        (rows(2), np.array([[0], [1]]), "one integer a row"),
        ({"y": np.zeros((1, 2), np.float32)}, np.array([0]), "unknown y"),
        ({"x": np.zeros((1, 2), np.float64)}, np.array([0]), "dtype float64"),
        ({"x": np.zeros((1, 5), np.float32)}, np.array([0]), "axis 1 must be 2"),
        (b"text", np.array([0]), "not a readable .npz"),
        (rows(1), b"text", "not a readable .npy"),
        (rows(1), b"", "not a readable .npy"),
    ],
)
def test_data_are_refused_when_they_do_not_fit(tmp_path: Path, inputs: Any, labels: Any, said: str):
    folder = make_folder(tmp_path, inputs, labels)
    with pytest.raises((InputError, FormatMismatch)) as caught:
        read_evaluation(folder)
    assert said in caught.value.message


def test_labels_are_refused_when_they_would_have_to_be_unpickled(tmp_path: Path):
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(FormatMismatch, match=r"not a readable \.npy"):
        read_evaluation(make_folder(tmp_path, rows(1), file.getvalue()))


def test_labels_are_refused_when_they_are_an_archive(tmp_path: Path):
    file = io.BytesIO()
    np.savez(file, labels=np.array([0]))
    with pytest.raises(FormatMismatch, match=r"\.npz archive, expected an \.npy"):
        read_evaluation(make_folder(tmp_path, rows(1), file.getvalue()))


def test_the_names_count_the_classes_when_the_signature_does_not(tmp_path: Path):
    folder = make_folder(tmp_path, rows(1), np.array([2]), b"ant\nbee\n", signature(classes="classes"))
    with pytest.raises(InputError, match="expected 0 to 1"):
        read_evaluation(folder)


def test_data_are_refused_when_a_file_was_changed(tmp_path: Path):
    folder = make_folder(tmp_path, rows(1), np.array([0]))
    np.save(tmp_path / "labels.npy", np.array([1]))
    with pytest.raises(DigestMismatch):
        read_evaluation(folder)


def test_a_model_is_refused_when_it_has_no_evaluation_data(tmp_path: Path):
    folder = make_folder(tmp_path, rows(1), np.array([0]))
    bare = ModelFolder(tmp_path, msgspec.structs.replace(folder.manifest, evaluation=None))
    with pytest.raises(InputError, match="no evaluation data"):
        read_evaluation(bare)


def test_names_are_read_one_a_line(tmp_path: Path):
    folder = make_folder(tmp_path, rows(1), np.array([0]), "ant\r\nbeé \ncat\n".encode())
    assert read_labels(folder) == ("ant", "beé", "cat")


def test_there_are_no_names_when_the_manifest_has_none(tmp_path: Path):
    assert read_labels(make_folder(tmp_path, rows(1), np.array([0]))) == ()


@pytest.mark.parametrize("names", [b"", b"ant\n\ncat\n", b"\xff\xfe"])
def test_names_are_refused_when_one_is_empty_or_they_are_no_text(tmp_path: Path, names: bytes):
    folder = make_folder(tmp_path, rows(1), np.array([0]), names)
    with pytest.raises(ManifestInvalid, match=r"labels\.txt"):
        read_labels(folder)


def test_accuracy_is_the_share_of_rows_whose_best_class_is_the_label():
    logits = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float16)
    assert top1_accuracy({"logits": logits}, np.array([0, 1, 2, 2])) == 0.75


def test_a_row_is_wrong_when_it_holds_a_nan():
    logits = np.array([[np.nan, 0], [1, 0]], np.float32)
    assert top1_accuracy({"logits": logits}, np.array([0, 0])) == 0.5


@pytest.mark.parametrize("labels", [np.array([0]), np.array([[0], [0]])])
def test_accuracy_is_refused_when_there_is_not_one_label_a_row(labels: Any):
    with pytest.raises(InputError, match="one label a row"):
        top1_accuracy({"logits": np.zeros((2, 2), np.float32)}, labels)


def test_the_classes_are_the_only_output_of_rank_two():
    logits, hidden = np.zeros((1, 3)), np.zeros((1, 4, 4))
    assert class_outputs({"hidden": hidden, "logits": logits}) is logits
    for outputs in ({"hidden": hidden}, {"a": logits, "b": logits}, {}):
        with pytest.raises(RunoffError, match="exactly one output"):
            class_outputs(outputs)


def test_the_metric_follows_the_task():
    assert metric_for("image-classification") == ("accuracy", top1_accuracy)
    assert metric_for("tensors") is None
    assert metric_for(None) is None
