from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from meta.repository import ROOT
from runoff.errors import FormatMismatch, InputError
from runoff.export.calibration import MAX_ROWS, Rows, find_calibration, read_data
from runoff.models.folder import ModelFolder, change_manifest, read_folder

DIGITS = ROOT / "examples" / "digits"


@pytest.fixture
def digits() -> ModelFolder:
    return read_folder(DIGITS)


def _images(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"image": rng.random((rows, 1, 8, 8), dtype=np.float32)}


def _unlabelled(tmp_path: Path) -> ModelFolder:
    shutil.copytree(DIGITS, tmp_path / "digits")
    return change_manifest(tmp_path / "digits", lambda manifest: msgspec.structs.replace(manifest, evaluation=None))


def test_evaluation_rows_are_parted_when_there_is_no_other_data(digits: ModelFolder) -> None:
    found = find_calibration(digits)
    assert (found.num_read, found.num_judged) == (MAX_ROWS, 450 - MAX_ROWS)
    assert found.judged.labels is not None and len(found.judged.labels) == found.num_judged
    assert found.read.name == "128 of 450 rows of the model's evaluation data"
    rows = [{row.tobytes() for row in part.arrays["image"]} for part in (found.read, found.judged)]
    assert len(rows[0] & rows[1]) <= 1, "two scans of the set are alike, no row is in both parts"


def test_calibration_rows_are_spread_over_sorted_data(digits: ModelFolder) -> None:
    labels = np.repeat(np.arange(10), 10)
    found = find_calibration(digits, Rows(_images(100), "sorted", labels))
    assert found.read.labels is not None
    assert set(found.read.labels.tolist()) == set(range(10))
    assert (found.num_read, found.num_judged) == (50, 50)


def test_data_without_labels_calibrate_and_the_model_s_own_labelled_rows_judge(digits: ModelFolder) -> None:
    found = find_calibration(digits, Rows(_images(200), "mine"))
    assert (found.read.name, found.num_read) == ("128 of 200 rows of mine", MAX_ROWS)
    assert (found.judged.name, found.num_judged) == ("the model's evaluation data", 450)


def test_rows_are_generated_when_there_is_nothing_else(tmp_path: Path) -> None:
    found = find_calibration(_unlabelled(tmp_path))
    assert (found.read.name, found.judged.name) == ("normal-v1 seed 1", "normal-v1 seed 0")
    assert not np.array_equal(found.read.arrays["image"], found.judged.arrays["image"])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"picture": np.zeros((4, 1, 8, 8), np.float32)}, "missing image, unknown picture"),
        ({"image": np.zeros((4, 1, 9, 8), np.float32)}, "axis 2 must be 8"),
        ({"image": np.zeros((4, 8, 8), np.float32)}, "of rank 3"),
        ({"image": np.zeros((4, 1, 8, 8), np.float64)}, "dtype float64"),
        ({"image": np.zeros((0, 1, 8, 8), np.float32)}, "is empty"),
        ({"image": np.full((4, 1, 8, 8), np.nan, np.float32)}, "256 values that are NaN or infinite"),
        ({"image": np.full((4, 1, 8, 8), np.inf, np.float32)}, "256 values that are NaN or infinite"),
    ],
)
def test_rows_that_do_not_fit_are_refused(digits: ModelFolder, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_calibration(digits, Rows(arrays, "mine"))


def test_labels_of_another_length_are_refused(digits: ModelFolder) -> None:
    with pytest.raises(InputError, match="there are 3 labels for 4 rows of mine"):
        find_calibration(digits, Rows(_images(4), "mine", np.zeros(3, np.int64)))


def test_single_row_is_refused_when_it_would_have_to_judge_as_well(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a single row"):
        find_calibration(_unlabelled(tmp_path), Rows(_images(1), "mine"))


def test_files_of_a_folder_are_joined_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, value in (("b", 2.0), ("a", 1.0)):
        np.savez(tmp_path / f"{name}.npz", x=np.full((2, 3), value))
    np.save(tmp_path / "labels.npy", np.arange(4))
    found = read_data(tmp_path, tmp_path / "labels.npy")
    assert found.arrays["x"][:, 0].tolist() == [1.0, 1.0, 2.0, 2.0]
    assert found.labels is not None and found.labels.tolist() == [0, 1, 2, 3]


def test_unreadable_data_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no [.]npz file"):
        read_data(tmp_path)
    with pytest.raises(InputError, match=r"none[.]npz: No such file"):
        read_data(tmp_path / "none.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(FormatMismatch, match=r"not a readable [.]npz"):
        read_data(tmp_path / "broken.npz")


def test_files_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3)))
    np.savez(tmp_path / "b.npz", y=np.zeros((2, 3)))
    with pytest.raises(InputError, match=r"b[.]npz holds y, a[.]npz holds x"):
        read_data(tmp_path)
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 4)))
    with pytest.raises(InputError, match="do not fit each other"):
        read_data(tmp_path)


@pytest.mark.parametrize("labels", [np.zeros((2, 2), np.int64), np.zeros(2)])
def test_labels_that_are_no_integers_a_row_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3)))
    np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(InputError, match="one integer for each row"):
        read_data(tmp_path / "a.npz", tmp_path / "labels.npy")
