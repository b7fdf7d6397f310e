"""A race of the digits model over the real runtimes, from the source form to the decision."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

import runoff
from fakes.race_process import are_gone, descendants
from runoff.auto import AutoModel
from runoff.models.arrays import read_npz
from runoff.models.folder import ModelFolder, read_folder
from runoff.race.options import Event, RaceOptions
from runoff.race.run import RaceResult, race_folder

DIGITS = Path(runoff.__file__).parents[2] / "examples" / "digits"
OPTIONS = RaceOptions(
    rounds=2,
    max_rounds=2,
    turn_s=0.02,
    warmup_s=0.5,
    num_threads=(1,),
    batches=(1, 8),
    samples=64,
    candidates=("torch-fp32", "torch-fp32+bf16", "onnx-fp32", "openvino-fp32", "openvino-fp32+default"),
)


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> RaceResult:
    root = tmp_path_factory.mktemp("raced") / "digits"
    shutil.copytree(DIGITS, root, ignore=shutil.ignore_patterns("records", ".*"))
    return race_folder(read_folder(root), OPTIONS)


def copy_of(raced: RaceResult, root: Path) -> ModelFolder:
    shutil.copytree(raced.folder.root, root, ignore=shutil.ignore_patterns(".*"))
    return read_folder(root)


def test_every_candidate_has_every_figure(raced) -> None:
    assert {e.candidate.id.removesuffix("@1") for e in raced.record.entrants} == set(OPTIONS.candidates or ())
    for entrant in raced.record.entrants:
        assert entrant.failure is None
        assert entrant.fidelity is not None
        assert entrant.fidelity.samples == 64
        assert entrant.fidelity.metric["accuracy"] > 0.9
        assert entrant.peak_memory_bytes is not None
        assert entrant.peak_memory_bytes > 20 << 20
        assert (entrant.load_s or 0) < (entrant.cold_start_s or 0)
        assert [timing.batch for timing in entrant.timings] == [1, 8]
        for timing in entrant.timings:
            assert timing.p50_ms > 0
            assert timing.percentile_ms(50) <= timing.percentile_ms(95) <= timing.percentile_ms(99)


def test_fp32_runtimes_agree_exactly_and_lower_precisions_say_what_they_run_at(raced) -> None:
    by_id = {e.candidate.id.removesuffix("@1"): e for e in raced.record.entrants}
    for name in ("onnx-fp32", "openvino-fp32"):
        found = by_id[name].fidelity
        assert found is not None
        assert found.max_rel < 1e-5
        assert by_id[name].runs_at == "fp32"
    assert by_id["torch-fp32+bf16"].runs_at == "bf16"
    bf16 = by_id["torch-fp32+bf16"].fidelity
    assert bf16 is not None
    assert 1e-5 < bf16.max_rel < 0.1
    default = by_id["openvino-fp32+default"]
    assert default.fidelity is not None
    assert (default.fidelity.max_rel < 1e-5) == (default.runs_at == "fp32")


def test_decision_is_measured_and_right(raced) -> None:
    chosen = raced.record.entrant(raced.decision.require().id)
    assert raced.decision.basis == "measured"
    assert chosen is not None
    best = min(t.p50_ms for e in raced.record.entrants if (t := e.timing(1)))
    found = chosen.timing(1)
    assert found is not None
    assert found.p50_ms <= 1.1 * best


def test_missing_package_was_exported_and_every_package_verifies(raced) -> None:
    folder = read_folder(raced.folder.root)
    assert {entry.backend for entry in folder.manifest.packages} == {"torch", "onnx", "openvino"}
    for package in folder.packages:
        package.verify()
    assert all(entry.fidelity for entry in folder.manifest.packages if entry.id != folder.manifest.reference)


def test_second_race_starts_nothing(raced, tmp_path) -> None:
    events: list[Event] = []
    again = race_folder(copy_of(raced, tmp_path / "digits"), OPTIONS, events.append)
    assert [event.stage for event in events] == ["done"]
    assert again.notes == ("reused the record of an earlier race",)
    assert again.decision.ranking == raced.decision.ranking


def test_newcomer_is_timed_beside_the_incumbent(raced, tmp_path) -> None:
    events: list[Event] = []
    options = msgspec.structs.replace(OPTIONS, num_threads=(1, 2), candidates=("onnx-fp32", "openvino-fp32"))
    again = race_folder(copy_of(raced, tmp_path / "digits"), options, events.append)
    timed = {event.detail.removeprefix("warming up ") for event in events if event.detail.startswith("warming")}
    assert {"onnx-fp32@2", "openvino-fp32@2"} <= timed
    assert timed & {"onnx-fp32@1", "openvino-fp32@1"}, "absolute figures age"
    checked = [event.detail for event in events if event.stage == "check"]
    assert checked == ["torch-fp32@1, the reference", "onnx-fp32@2", "openvino-fp32@2", "all checked"]
    assert len(again.record.entrants) == len(raced.record.entrants) + 2


def test_winner_answers_as_the_reference_did(raced) -> None:
    golden = read_folder(raced.folder.root).manifest.golden
    assert golden is not None
    inputs = read_npz(raced.folder.file(golden.inputs))
    outputs = read_npz(raced.folder.file(golden.outputs))
    with AutoModel.from_pretrained(raced.folder.root, precision="fp32") as model:
        assert model.explain().data["basis"] == "measured"
        found = model.run(inputs)["logits"]
    assert np.abs(found - outputs["logits"]).max() <= 1e-4 * np.abs(outputs["logits"]).max()


@pytest.mark.slow
def test_compiled_candidate_races_and_leaves_no_process(tmp_path) -> None:
    root = tmp_path / "digits"
    shutil.copytree(DIGITS, root, ignore=shutil.ignore_patterns("records", ".*"))
    options = msgspec.structs.replace(OPTIONS, candidates=("torch-fp32", "torch-fp32+compile"), batches=(1,))
    started: dict[int, psutil.Process] = {}
    result = race_folder(
        read_folder(root), options, lambda event: started.update({p.pid: p for p in descendants(os.getpid())})
    )
    assert started
    assert are_gone(started.values(), 5.0)
    compiled = result.record.entrant("torch-fp32+compile@1")
    assert compiled is not None
    assert compiled.failure is None
    assert compiled.fidelity is not None
    assert compiled.fidelity.max_rel < 1e-4


@pytest.mark.parametrize("module", ["runoff.backends.openvino", "runoff.export.openvino"])
def test_openvino_does_not_report_its_use_over_the_network(module) -> None:
    script = f"import {module}, openvino, sys; print(sys.modules['openvino_telemetry'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"
