"""Packages answer the golden pair where they are opened, and are refused outside their contract."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fakes.fake_models import make_fake_model
from runoff.auto import AutoModel
from runoff.environment.describe import describe_environment
from runoff.errors import ModelError, NoCandidate, SelfCheckFailed
from runoff.models.folder import ModelFolder, change_manifest, update_package
from runoff.models.manifest import Fidelity, PackageEntry
from runoff.race.fidelity import Contract
from runoff.race.selfcheck import Replay, replay_packages

MODEL = {
    "right": {},
    "wrong": {"factor": 1.02},
    "narrow": {"factor": 1.02, "precision": "bf16"},
    "narrower": {"factor": 1.15, "precision": "int8"},
    "broken": {"factor": 1.3, "precision": "int8"},
    "crashing": {"on_run": "segfault"},
    "refusing": {"on_open": "raise"},
    "rows": {"batch": 2},
}


@pytest.fixture(autouse=True)
def installed(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return make_fake_model(tmp_path / "fake", MODEL, golden=True)


def _replay(folder: ModelFolder, *names: str, contract: Contract | None = None) -> dict[str, Replay]:
    packages = [folder.package(name) for name in names]
    return {each.package_id: each for each in replay_packages(folder, describe_environment(), packages, contract)}


def _measured(entry: PackageEntry, max_rel: float) -> PackageEntry:
    metric = {"accuracy": 0.98}
    figures = Fidelity("right", 64, "data", max_rel, max_rel, cosine=1.0, centred_cosine=1.0, metric=metric)
    return msgspec.structs.replace(entry, fidelity=figures)


def test_each_package_is_held_to_the_level_of_its_precision(folder: ModelFolder) -> None:
    found = _replay(folder, *MODEL)
    assert {name: each.status for name, each in found.items()} == {
        "right": "ok",
        "wrong": "refused",
        "narrow": "ok",
        "narrower": "ok",
        "broken": "refused",
        "crashing": "cannot run here",
        "refusing": "cannot run here",
        "rows": "ok",
    }
    (output,) = found["wrong"].outputs
    assert output.output == "y"
    assert output.max_rel == pytest.approx(0.02, rel=1e-3)
    assert output.max_rel_limit == pytest.approx(1e-4)
    assert found["wrong"].reason == "output 'y' has a relative error of 0.02, over 0.0001"
    assert "crashed" in (found["crashing"].reason or "")


def test_explicit_contract_replaces_the_level(folder: ModelFolder) -> None:
    assert _replay(folder, "narrow", contract=Contract("exact"))["narrow"].status == "refused"
    assert _replay(folder, "wrong", contract=Contract(max_error=0.05))["wrong"].status == "ok"


def test_package_that_its_labels_admitted_is_held_to_the_figures_of_the_manifest(folder: ModelFolder) -> None:
    entry = folder.package("broken").entry
    known = update_package(folder.root, _measured(entry, 0.29))
    assert _replay(known, "broken")["broken"].status == "ok"
    known = update_package(folder.root, _measured(entry, 0.15))
    found = _replay(known, "broken")["broken"]
    assert found.status == "refused"
    assert found.worst is not None
    assert found.worst.max_rel_limit == pytest.approx(0.225)


def test_damaged_package_is_refused_before_it_is_opened(folder: ModelFolder) -> None:
    folder.package("right").main_file.write_bytes(b"{}")
    found = _replay(folder, "right")["right"]
    assert (found.status, found.runs_at) == ("refused", None)
    assert "not the file that the manifest describes" in (found.reason or "")


def test_package_is_named_when_its_backend_is_not_installed(folder: ModelFolder) -> None:
    entry = msgspec.structs.replace(folder.package("right").entry, id="else", backend="elsewhere")
    other = change_manifest(folder.root, lambda m: msgspec.structs.replace(m, packages=(*m.packages, entry)))
    found = _replay(other, "else")["else"]
    assert (found.status, found.reason) == ("cannot run here", "no backend 'elsewhere' in this installation")


def test_opened_model_proves_itself(tmp_path: Path) -> None:
    folder = make_fake_model(tmp_path / "m", {"right": {}}, golden=True)
    with AutoModel.from_pretrained(folder.root, verify=True) as model:
        assert model.verify().status == "ok"
        assert "self-check: right answers the golden pair here" in model.explain().text


def test_package_made_for_a_batch_answers_all_golden_rows(tmp_path: Path) -> None:
    folder = make_fake_model(tmp_path / "m", {"z": {}, "a-rows": {"batch": 2}}, golden=True)
    with AutoModel.from_pretrained(folder.root, batch_size=2, verify=True) as model:
        assert model.package.id == "a-rows"
        assert model.verify().status == "ok"


def test_wrong_package_is_refused_with_figures_and_no_other_one_answers(tmp_path: Path) -> None:
    folder = make_fake_model(tmp_path / "m", {"a-wrong": {"factor": 1.02}, "b-right": {}}, golden=True)
    with AutoModel.from_pretrained(folder.root) as model:
        assert model.package.id == "a-wrong"
    with pytest.raises(SelfCheckFailed, match=r"'a-wrong' .*'y' has a relative error of 0.02, over 0.0001") as refused:
        AutoModel.from_pretrained(folder.root, verify=True)
    assert refused.value.figures[0]["output"] == "y"
    assert "verify MODEL --run" in (refused.value.hint or "")
    assert AutoModel.from_pretrained(folder.root, verify=True, contract=Contract(max_error=0.1)).package.id == "a-wrong"


def test_model_without_a_golden_pair_is_refused_with_the_way_to_make_one(tmp_path: Path) -> None:
    folder = make_fake_model(tmp_path / "m", {"right": {}})
    with pytest.raises(ModelError, match="no golden pair") as refused:
        AutoModel.from_pretrained(folder.root, verify=True)
    assert "runoff.package(module, inputs, folder)" in (refused.value.hint or "")
    with pytest.raises(ModelError, match="no golden pair"):
        _replay(folder, "right")


def test_golden_pair_that_was_changed_proves_nothing(folder: ModelFolder) -> None:
    (folder.root / "golden" / "outputs.npz").write_bytes(b"0" * 10)
    with pytest.raises(ModelError):
        AutoModel.from_pretrained(folder.root, verify=True)


def test_wish_that_nothing_meets_is_refused_before_anything_is_replayed(folder: ModelFolder) -> None:
    with pytest.raises(NoCandidate):
        AutoModel.from_pretrained(folder.root, precision="fp16", verify=True)
