"""What is said of the choice of another environment, with records made up for two machines."""

from pathlib import Path

import msgspec
import pytest

from fakes import model_files, race_facts
from fakes.race_facts import timing
from runoff.auto import decide_for
from runoff.models.folder import ModelFolder, read_folder, write_atomically
from runoff.models.manifest import dump_manifest
from runoff.race.record import record_path, write_record
from runoff.race.wish import Wish, make_wish

THERE = race_facts.environment()
HERE = race_facts.environment(openvino=None, onnxruntime="1.22.0")


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    """A folder whose one package is listed for a second backend too; what it holds is never opened."""
    made = model_files.make_folder(tmp_path / "model")
    first = made.manifest.packages[0]
    second = msgspec.structs.replace(first, id="openvino-fp32", backend="openvino", format="openvino")
    manifest = msgspec.structs.replace(made.manifest, packages=(first, second))
    write_atomically(made.root / "runoff.json", dump_manifest(manifest))
    return read_folder(made.root)


def _race(folder: ModelFolder, machine, **medians_ms: float) -> None:
    entrants = [
        race_facts.entrant(folder.package(f"{backend}-fp32").entry, timing([median]), num_threads=1)
        for backend, median in medians_ms.items()
    ]
    found = race_facts.record(*entrants, of=machine, model_sha256=folder.digest())
    write_record(record_path(folder.root, machine.fingerprint), found)


def _notes(folder: ModelFolder, wish: Wish | None = None) -> list[str]:
    return [note for note in decide_for(folder, wish or Wish(), HERE).notes if note.startswith("there ")]


def test_nothing_is_said_where_nothing_was_raced_elsewhere(folder: ModelFolder) -> None:
    assert _notes(folder) == []


def test_choice_that_cannot_be_made_here_is_named_with_the_reason(folder: ModelFolder) -> None:
    _race(folder, THERE, openvino=1.0, onnx=2.0)
    decision = decide_for(folder, Wish(), HERE)
    assert "onnxruntime: 1.23.2 -> 1.22.0" in " ".join(decision.notes)
    assert _notes(folder) == [
        "there openvino-fp32@1 was best by latency, 1 ms; here it is rejected: OpenVINO is not installed"
    ]


def test_same_package_is_said_to_be_guessed_until_it_is_measured_here(folder: ModelFolder) -> None:
    _race(folder, THERE, onnx=1.0)
    assert _notes(folder) == [
        "there onnx-fp32@1 was best by latency, 1 ms; here the same package is guessed: onnx-fp32"
    ]
    _race(folder, HERE, onnx=3.0)
    assert _notes(folder) == []


def test_difference_stays_explained_after_a_race_here(folder: ModelFolder) -> None:
    _race(folder, THERE, openvino=1.0, onnx=2.0)
    _race(folder, HERE, onnx=3.0)
    decision = decide_for(folder, Wish(), HERE)
    assert decision.basis == "measured"
    assert [note for note in decision.notes if "does not hold" in note] == []
    assert "here it is rejected: OpenVINO is not installed" in _notes(folder)[0]


def test_nothing_is_said_of_what_was_asked_for_by_name(folder: ModelFolder) -> None:
    _race(folder, THERE, openvino=1.0, onnx=2.0)
    assert _notes(folder, make_wish(backend="onnx")) == []
