from pathlib import Path

import msgspec
import numpy as np
import pytest

from fakes import model_files
from runoff.errors import FormatMismatch, InputError
from runoff.models.arrays import read_npz
from runoff.models.folder import ModelFolder, change_manifest, describe_file
from runoff.models.manifest import Evaluation, Golden
from runoff.race.inputs import (
    RaceInputs,
    batched_inputs,
    find_inputs,
    golden_inputs,
    take_rows,
    write_batch,
    write_padded,
)
from runoff.race.options import RaceOptions
from runoff.types import DType, Signature, TensorSpec


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return model_files.make_folder(tmp_path / "model", labels=False)


def with_signature(folder: ModelFolder, *specs: TensorSpec, task: str | None = None) -> ModelFolder:
    return change_manifest(
        folder.root,
        lambda old: msgspec.structs.replace(old, signature=Signature(specs, old.signature.outputs), task=task),
    )


def with_evaluation(folder: ModelFolder, rows: int, labels: int) -> ModelFolder:
    root = folder.root
    np.savez(root / "inputs.npz", x=np.arange(rows * 3, dtype=np.float32).reshape(rows, 3))
    np.save(root / "labels.npy", np.zeros(labels, np.int64))
    described = Evaluation(describe_file(root, "inputs.npz"), describe_file(root, "labels.npy"))
    return change_manifest(
        root, lambda old: msgspec.structs.replace(old, evaluation=described, task="image-classification")
    )


def data(tmp_path: Path, rows: int = 5, name: str = "data.npz") -> Path:
    path = tmp_path / name
    np.savez(path, x=np.arange(rows * 3, dtype=np.float32).reshape(rows, 3))
    return path


def test_inputs_are_generated_and_named_when_there_is_no_data(folder) -> None:
    found = find_inputs(folder, RaceOptions())
    assert found.arrays["x"].shape == (16, 3)
    assert found.name == "normal-v1 seed 0"
    assert (found.labels, found.metric, found.samples) == (None, None, 16)
    assert np.array_equal(found.arrays["x"], find_inputs(folder, RaceOptions()).arrays["x"])


def test_evaluation_data_is_taken_with_its_metric_when_the_model_has_some(folder) -> None:
    found = find_inputs(with_evaluation(folder, 40, 40), RaceOptions(samples=32))
    assert (found.samples, len(found.labels)) == (32, 32)
    assert found.metric is not None
    assert found.metric[0] == "accuracy"
    assert found.name.startswith("evaluation sha256 ")


def test_data_of_the_user_comes_before_the_evaluation_data(folder, tmp_path) -> None:
    found = find_inputs(with_evaluation(folder, 4, 4), RaceOptions(data=data(tmp_path)))
    assert (found.samples, found.labels, found.metric) == (5, None, None)
    assert found.name.startswith("data sha256 ")


def test_name_changes_with_data_and_with_labels(folder, tmp_path) -> None:
    np.save(tmp_path / "zeros.npy", np.zeros(5, np.int64))
    np.save(tmp_path / "ones.npy", np.ones(5, np.int64))
    path, more = data(tmp_path), data(tmp_path, 6, "more.npz")
    choices = [
        RaceOptions(data=path),
        RaceOptions(data=more),
        RaceOptions(data=path, labels=tmp_path / "zeros.npy"),
        RaceOptions(data=path, labels=tmp_path / "ones.npy"),
    ]
    assert len({find_inputs(folder, options).name for options in choices}) == 4


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(4, np.int64), "4 labels for 5 rows"),
        (np.zeros((5, 1), np.int64), "one integer"),
        (np.zeros(5, np.float32), "one integer"),
    ],
    ids=["count", "rank", "dtype"],
)
def test_labels_are_refused_when_they_do_not_fit_the_rows(folder, tmp_path, labels, message) -> None:
    np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(InputError, match=message):
        find_inputs(folder, RaceOptions(data=data(tmp_path), labels=tmp_path / "labels.npy"))


def test_labels_without_data_are_refused(folder, tmp_path) -> None:
    with pytest.raises(InputError, match="without the data"):
        find_inputs(folder, RaceOptions(labels=tmp_path / "labels.npy"))


@pytest.mark.parametrize("content", [b"", b"no numpy file"])
def test_damaged_files_are_refused(folder, tmp_path, content) -> None:
    (tmp_path / "damaged").write_bytes(content)
    with pytest.raises(FormatMismatch):
        find_inputs(folder, RaceOptions(data=tmp_path / "damaged"))
    with pytest.raises(InputError, match=r"not a readable \.npy"):
        find_inputs(folder, RaceOptions(data=data(tmp_path), labels=tmp_path / "damaged"))


def test_missing_files_are_refused_in_words(folder, tmp_path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        find_inputs(folder, RaceOptions(data=tmp_path / "none.npz"))
    with pytest.raises(InputError, match="cannot read"):
        find_inputs(folder, RaceOptions(data=data(tmp_path), labels=tmp_path / "none.npy"))


def test_data_is_refused_when_it_does_not_fit_the_signature(folder, tmp_path) -> None:
    for arrays in ({"y": np.zeros((2, 3), np.float32)}, {"x": np.zeros((2, 4), np.float32)}, {"x": np.zeros((2, 3))}):
        np.savez(tmp_path / "wrong.npz", **arrays)
        with pytest.raises(InputError):
            find_inputs(folder, RaceOptions(data=tmp_path / "wrong.npz"))
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(InputError, match="no arrays"):
        find_inputs(folder, RaceOptions(data=tmp_path / "empty.npz"))


def test_data_of_any_number_of_rows_fits_a_model_of_a_fixed_batch(folder, tmp_path) -> None:
    fixed = with_signature(folder, TensorSpec("x", DType.FP32, (4, 3)))
    assert find_inputs(fixed, RaceOptions(data=data(tmp_path, 7))).samples == 7
    assert find_inputs(fixed, RaceOptions()).samples == 4


def test_inputs_of_unequal_rows_are_refused(folder, tmp_path) -> None:
    two = with_signature(folder, TensorSpec("x", DType.FP32, ("batch", 3)), TensorSpec("mask", DType.FP32, ("batch",)))
    np.savez(tmp_path / "uneven.npz", x=np.zeros((2, 3), np.float32), mask=np.zeros(3, np.float32))
    with pytest.raises(InputError):
        find_inputs(two, RaceOptions(data=tmp_path / "uneven.npz"))


@pytest.mark.parametrize(
    ("shapes", "batched"),
    [
        ({"x": ("batch", 3), "scale": ()}, {"x"}),
        ({"x": ("batch", 3), "table": (5, 3), "mask": ("batch",)}, {"x", "mask"}),
        ({"x": ("n", 3)}, {"x"}),
        ({"x": (4, 3), "y": (4,), "z": (2, 2)}, {"x", "y"}),
        ({"scale": ()}, set()),
    ],
)
def test_batched_inputs_are_those_that_begin_with_the_batch(shapes, batched) -> None:
    specs = tuple(TensorSpec(name, DType.FP32, shape) for name, shape in shapes.items())
    assert batched_inputs(Signature(specs, specs)) == batched


def test_input_without_a_batch_is_the_same_for_every_row(folder, tmp_path) -> None:
    two = with_signature(folder, TensorSpec("scale", DType.FP32, ()), TensorSpec("x", DType.FP32, ("batch", 3)))
    found = find_inputs(two, RaceOptions(samples=3))
    assert found.samples == 3
    stored = read_npz(write_batch(found, 5, tmp_path / "batch.npz"))
    assert stored["scale"].shape == ()
    assert stored["x"].shape == (5, 3)


def test_rows_are_repeated_when_a_batch_is_larger_than_the_data(tmp_path) -> None:
    inputs = RaceInputs({"x": np.array([[0], [1], [2]])}, batched=frozenset({"x"}))
    assert read_npz(write_batch(inputs, 5, tmp_path / "b.npz"))["x"].ravel().tolist() == [0, 1, 2, 0, 1]
    assert read_npz(write_padded(inputs, 2, tmp_path / "p.npz"))["x"].ravel().tolist() == [0, 1, 2, 0]
    assert read_npz(write_padded(inputs, 3, tmp_path / "p.npz"))["x"].ravel().tolist() == [0, 1, 2]


def test_taken_rows_are_contiguous() -> None:
    array = np.zeros((4, 3), order="F")
    assert take_rows({"x": array}, frozenset({"x"}), np.arange(2))["x"].flags.c_contiguous


def test_golden_pair_is_read_and_named(folder) -> None:
    assert golden_inputs(folder) is None
    root = folder.root
    np.savez(root / "in.npz", x=np.ones((2, 3), np.float32))
    np.savez(root / "out.npz", y=np.ones((2, 2), np.float32))
    golden = Golden(describe_file(root, "in.npz"), describe_file(root, "out.npz"))
    found = golden_inputs(change_manifest(root, lambda old: msgspec.structs.replace(old, golden=golden)))
    assert found is not None
    inputs, outputs = found
    assert inputs.samples == 2
    assert inputs.name.startswith("golden sha256 ")
    assert outputs["y"].shape == (2, 2)
