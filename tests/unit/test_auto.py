import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import runoff
from fakes import race_facts
from fakes.fake_models import QUICK, make_fake_model
from fakes.partial_site import make_partial_site, run_python
from fakes.plugin_site import plugged_in
from fakes.race_facts import timing
from fakes.tiny_onnx import expected, make_tiny_onnx, write_tiny_onnx
from fakes.web import Site, publish_folder, serve
from runoff.auto import AutoModel, FallbackWarning, decide_for
from runoff.environment.describe import describe_environment
from runoff.errors import (
    DigestMismatch,
    FormatMismatch,
    InputError,
    ManifestInvalid,
    ModelNotFound,
    NoCandidate,
    PathEscapes,
    RuntimeLoadError,
    SourceError,
    UnknownName,
)
from runoff.export.find import find_folder
from runoff.model import NotANumberWarning
from runoff.models.folder import ModelFolder, add_package, change_manifest, describe_file, staging
from runoff.models.registry import add_version
from runoff.models.sources import SourceOptions
from runoff.race.candidates import with_sessions
from runoff.race.fidelity import Contract
from runoff.race.record import BatchTiming, Entrant, Record, Turn, record_path, write_record
from runoff.race.wish import Wish

DIGITS = Path(runoff.__file__).parents[2] / "examples" / "digits"
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return make_tiny_onnx(tmp_path / "tiny")


def entrant(folder: ModelFolder, package_id: str, median_ms: float, **facts: Any) -> Entrant:
    return race_facts.entrant(folder.package(package_id).entry, timing([median_ms] * 3), num_threads=1, **facts)


def write_race(folder: ModelFolder, *entrants: Entrant) -> Record:
    """Record a race on this machine that nobody has run."""
    environment = describe_environment()
    made = race_facts.record(*entrants, of=environment, model_sha256=folder.digest())
    write_record(record_path(folder.root, environment.fingerprint), made)
    return made


def rewrite_manifest(folder: ModelFolder, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder.root / "runoff.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_first_of_the_documented_order_answers_when_no_race_was_run(folder) -> None:
    with AutoModel.from_pretrained(folder.root) as model:
        assert model.package.id == "onnx-fp32"
        np.testing.assert_allclose(model.run({"x": ROWS})["y"], expected(ROWS), rtol=1e-5)
        assert "guessed" in model.explain().text


def test_model_tells_what_to_serve_with_and_opens_one_of_its_sessions(folder) -> None:
    single = entrant(folder, "onnx-fp32", 2.0)
    turns = tuple(Turn(number, 10, 3.0, (3.0,), 900.0) for number in range(3))
    several = msgspec.structs.replace(
        single, candidate=with_sessions(single.candidate, 2, 1), timings=(BatchTiming(1, turns),)
    )
    write_race(folder, single, several)
    with AutoModel.from_pretrained(folder.root, objective="throughput") as model:
        serving = model.decision.serving
        assert serving is not None
        assert (serving.sessions, serving.threads_per_session, serving.batch) == (2, 1, 1)
        assert str(serving) == "2 sessions x 1 thread, batch 1: 900 items/s"
        assert model.facts["threads"] == 1
        assert "serve with: 2 sessions x 1 thread" in model.explain().text
        np.testing.assert_allclose(model.run({"x": ROWS})["y"], expected(ROWS), rtol=1e-5)
    with AutoModel.from_pretrained(folder.root) as model:
        assert model.candidate.id == "onnx-fp32@1"
        assert model.decision.serving is None


def test_measured_winner_answers_with_the_threads_that_it_won_with(folder) -> None:
    write_race(folder, entrant(folder, "onnx-fp32", 2.0), entrant(folder, "openvino-fp32", 1.0))
    with AutoModel.from_pretrained(str(folder.root)) as model:
        assert model.candidate.id == "openvino-fp32@1"
        assert model.facts["threads"] == 1
        assert model.explain().data["basis"] == "measured"
        np.testing.assert_allclose(model.run({"x": ROWS})["y"], expected(ROWS), rtol=1e-5)


def test_same_facts_open_the_same_candidate_with_the_same_explanation(folder) -> None:
    write_race(folder, entrant(folder, "onnx-fp32", 2.0), entrant(folder, "openvino-fp32", 2.01))
    with AutoModel.from_pretrained(folder.root) as first, AutoModel.from_pretrained(folder.root) as second:
        assert first.explain() == second.explain()


def test_stale_record_is_not_used_and_the_explanation_says_what_changed(folder) -> None:
    made = write_race(folder, entrant(folder, "openvino-fp32", 1.0))
    path = record_path(folder.root, made.fingerprint)
    old = msgspec.structs.replace(made, fingerprint="0" * 64, facts={**made.facts, "openvino": "2020.1"})
    path.unlink()
    write_record(record_path(folder.root, old.fingerprint), old)
    with AutoModel.from_pretrained(folder.root) as model:
        assert model.package.id == "onnx-fp32"
        assert f"openvino: 2020.1 -> {made.facts['openvino']}" in model.explain().text


@pytest.mark.parametrize(
    ("wish", "answers"),
    [
        ({"backend": "openvino"}, "openvino-fp32@1"),
        ({"backend": "ort"}, "onnx-fp32@1"),
        ({"backend": ["openvino", "onnx"]}, "openvino-fp32@1"),
        ({"backend": ["torch", "openvino"]}, "openvino-fp32@1"),
        ({"precision": "fp32"}, "onnx-fp32@1"),
        ({"precision": ["bf16", "fp32"]}, "onnx-fp32@1"),
        ({"num_threads": 2}, "onnx-fp32@2"),
        ({"device": "cpu"}, "onnx-fp32@1"),
        ({"objective": "memory"}, "openvino-fp32@1"),
        ({"batch_size": 7}, "onnx-fp32@1"),
    ],
)
def test_wish_is_obeyed(folder, wish, answers) -> None:
    write_race(
        folder,
        entrant(folder, "onnx-fp32", 1.0, peak_memory_bytes=200 << 20),
        entrant(folder, "openvino-fp32", 2.0, peak_memory_bytes=100 << 20),
    )
    with AutoModel.from_pretrained(folder.root, **wish) as model:
        assert model.candidate.id == answers


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"backend": "torch"}, "backend onnx was not asked for"),
        ({"precision": "int8"}, "precision fp32 was not asked for"),
        ({"device": "mps"}, "ONNX Runtime does not run on mps"),
    ],
)
def test_wish_that_nothing_meets_is_refused_with_every_reason(folder, wish, reason) -> None:
    with pytest.raises(NoCandidate, match=reason) as caught:
        AutoModel.from_pretrained(folder.root, **wish)
    assert {name.partition("#")[0] for name in caught.value.rejections} == {"onnx-fp32", "openvino-fp32"}


def test_contract_is_obeyed(folder) -> None:
    rough = race_facts.fidelity(0.01)
    write_race(folder, entrant(folder, "onnx-fp32", 2.0), entrant(folder, "openvino-fp32", 1.0, fidelity=rough))
    with AutoModel.from_pretrained(folder.root) as model:
        assert model.package.id == "onnx-fp32"
        assert "outside its contract" in model.explain().text
    with AutoModel.from_pretrained(folder.root, contract=Contract(max_error=0.02)) as model:
        assert model.package.id == "openvino-fp32"


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"backend": "onx"}, "unknown backend 'onx'; known: trt, torch, hf, onnx, openvino"),
        ({"backend": ["onnx", "tvm"]}, "unknown backend 'tvm'"),
        ({"precision": "fp8"}, "unknown precision 'fp8'; known: fp32, bf16, fp16, int8, int4, default"),
        ({"device": "tpu"}, "unknown device 'tpu'; known: cpu, cuda"),
        ({"device": "cuda:first"}, "unknown device"),
        ({"objective": "price"}, "unknown objective 'price'; known: latency"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_threads": -1}, "num_threads is -1"),
        ({"options": {"onnx": {"provider": []}}}, "unknown option of backend 'onnx' 'provider'; known: providers"),
        ({"options": {"onnx": {"providers": "CPUExecutionProvider"}}}, "takes list"),
        ({"options": {"onnx": {"graph_optimization": "most"}}}, "known: off, basic, extended, all"),
        ({"options": {"onx": {}}}, "unknown backend 'onx'"),
        ({"options": {"onnx": "fast"}}, "expected a mapping"),
        ({"options": {"onnx": {"providers": ["TpuExecutionProvider"]}}}, "TpuExecutionProvider"),
    ],
)
def test_unknown_words_are_refused_and_the_known_ones_named(folder, wish, message) -> None:
    with pytest.raises(UnknownName, match=message):
        AutoModel.from_pretrained(folder.root, **wish)


def test_unknown_word_is_refused_before_the_model_is_looked_for() -> None:
    with pytest.raises(UnknownName):
        AutoModel.from_pretrained("no/such/model", backend="onx")


def test_backend_that_is_not_installed_is_refused_and_the_extra_named(folder, tmp_path) -> None:
    site = make_partial_site(tmp_path / "site", "openvino")
    script = (
        "import sys, runoff\n"
        "try:\n"
        "    runoff.AutoModel.from_pretrained(sys.argv[1], backend='openvino')\n"
        "except runoff.RunoffError as error:\n"
        "    print(type(error).__name__, error, sep='\\n')\n"
        "with runoff.AutoModel.from_pretrained(sys.argv[1], backend=['openvino', 'onnx']) as model:\n"
        "    print('answers:', model.package.id)\n"
    )
    result = run_python(site, script, str(folder.root))
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "NoCandidate"
    assert any(line.split() == ["openvino-fp32", "OpenVINO", "is", "not", "installed"] for line in lines)
    assert "hint: pip install 'runoff[openvino]'" in lines
    assert lines[-1] == "answers: onnx-fp32"


def test_options_reach_the_backend_that_they_are_for(folder) -> None:
    options = {"onnxruntime": {"graph_optimization": "off"}, "onnx": {"providers": ["CPUExecutionProvider"]}}
    with AutoModel.from_pretrained(folder.root, options=options) as model:
        assert model.candidate.options == {"graph_optimization": "off", "providers": ["CPUExecutionProvider"]}
        assert model.facts["providers"] == ["CPUExecutionProvider"]
    with AutoModel.from_pretrained(folder.root, backend="openvino", options=options) as model:
        assert model.candidate.options == {}


def test_next_one_answers_with_a_warning_when_the_winner_fails_to_open(folder) -> None:
    write_race(folder, entrant(folder, "onnx-fp32", 1.0), entrant(folder, "openvino-fp32", 2.0))
    absent = {"onnx": {"providers": ["CUDAExecutionProvider"]}}
    with pytest.warns(FallbackWarning, match=r"onnx-fp32@1 failed to open, openvino-fp32@1 answers") as caught:
        model = AutoModel.from_pretrained(folder.root, options=absent)
    assert Path(caught[0].filename) == Path(__file__), "the caller's line is shown"
    with model:
        assert model.package.id == "openvino-fp32"
        data = model.explain().data
        assert data["chosen"]["id"] == "openvino-fp32@1"
        assert data["rejections"][0]["candidate_id"] == "onnx-fp32@1"
        assert data["rejections"][0]["reason"].startswith("failed to open: ")
        assert [ranked["candidate"]["id"] for ranked in data["ranking"]] == ["openvino-fp32@1"]
        assert "failed to open" in model.explain().text


def test_choice_is_marked_guessed_when_no_measured_one_opens(folder) -> None:
    write_race(folder, entrant(folder, "onnx-fp32", 1.0))
    with pytest.warns(FallbackWarning):
        model = AutoModel.from_pretrained(folder.root, options={"onnx": {"providers": ["CUDAExecutionProvider"]}})
    with model:
        assert model.explain().data["basis"] == "guessed"


def test_every_reason_is_in_the_error_when_nothing_opens(folder) -> None:
    with pytest.raises(NoCandidate) as caught:
        AutoModel.from_pretrained(
            folder.root, backend="onnx", options={"onnx": {"providers": ["CUDAExecutionProvider"]}}
        )
    assert caught.value.rejections["onnx-fp32"].startswith("failed to open: ")
    assert caught.value.rejections["openvino-fp32"] == "backend openvino was not asked for"


def test_plugin_that_raises_what_it_likes_is_a_failure_to_open(tmp_path) -> None:
    with plugged_in(tmp_path / "site"):
        made = make_fake_model(tmp_path / "model", {"a-raising": {"on_open": "raise"}, "b-fine": {}})
        with pytest.warns(FallbackWarning):
            model = AutoModel.from_pretrained(made.root)
        with model:
            assert model.package.id == "b-fine"
            assert "raised ValueError: the fake was told to raise" in model.explain().text


def test_package_of_an_unknown_backend_is_rejected_with_a_hint(tmp_path) -> None:
    with plugged_in(tmp_path / "site"):
        made = make_fake_model(tmp_path / "model", {"only": {}})
    with pytest.raises(NoCandidate, match="no backend 'fake' in this installation") as caught:
        AutoModel.from_pretrained(made.root)
    assert caught.value.hint == "install the plug-in that brings it"


def _asked(site: Site) -> set[str]:
    return {path.removeprefix("/m/") for method, path, _ in site.requests if method == "GET"}


def test_only_the_package_that_answers_is_fetched(folder) -> None:
    with serve() as site:
        publish_folder(site, "/m", folder.root)
        url = f"{site.url}/m/runoff.json"
        assert [package.id for package in AutoModel.describe_model(url).packages] == ["onnx-fp32", "openvino-fp32"]
        assert _asked(site) == {"runoff.json"}
        with pytest.raises(NoCandidate):
            AutoModel.from_pretrained(url, precision="int8")
        assert _asked(site) == {"runoff.json"}
        with AutoModel.from_pretrained(url, backend="openvino") as model:
            np.testing.assert_allclose(model.run({"x": ROWS})["y"], expected(ROWS), rtol=1e-2)
        assert _asked(site) == {"runoff.json", "packages/openvino-fp32/model.onnx"}
        with AutoModel.from_pretrained(url) as model:
            assert model.package.id == "onnx-fp32"
        assert "packages/onnx-fp32/model.onnx" in _asked(site)


def test_next_package_is_fetched_when_the_first_one_fails_to_open(folder) -> None:
    with serve() as site:
        publish_folder(site, "/m", folder.root)
        absent = {"onnx": {"providers": ["CUDAExecutionProvider"]}}
        with pytest.warns(FallbackWarning), AutoModel.from_pretrained(f"{site.url}/m/runoff.json", options=absent) as m:
            assert m.package.id == "openvino-fp32"


def test_package_that_is_here_answers_offline_with_a_warning(folder) -> None:
    with serve() as site:
        publish_folder(site, "/m", folder.root)
        url = f"{site.url}/m/runoff.json"
        AutoModel.from_pretrained(url, backend="openvino").close()
        site.requests.clear()
        offline = SourceOptions(offline=True)
        with pytest.warns(FallbackWarning, match="onnx-fp32 failed to open, openvino-fp32 answers"):
            model = AutoModel.from_pretrained(url, source=offline)
        with model:
            assert "was not fetched yet, and this is offline" in model.explain().text
        with pytest.raises(NoCandidate, match="was not fetched yet, and this is offline"):
            AutoModel.from_pretrained(url, backend="onnx", source=offline)
        assert site.requests == []


def test_failed_download_is_an_error_and_never_a_fallback(folder) -> None:
    with serve() as site:
        publish_folder(site, "/m", folder.root)
        site.statuses["/m/packages/onnx-fp32/model.onnx"] = [403]
        with pytest.raises(SourceError, match="403"):
            AutoModel.from_pretrained(f"{site.url}/m/runoff.json")


def test_raced_packages_are_fetched_with_the_evaluation_data_and_no_others(tmp_path) -> None:
    with plugged_in(tmp_path / "site"), serve() as site:
        made = make_fake_model(tmp_path / "m", {"a": {}, "b": {"latency_ms": 5.0}}, golden=True)
        other = msgspec.structs.replace(made.package("b").entry, id="else", backend="elsewhere")
        place = made.root / "else.json"
        place.write_bytes(b"{}  ")
        other = msgspec.structs.replace(other, files=(describe_file(made.root, "else.json"),))
        made = change_manifest(made.root, lambda m: msgspec.structs.replace(m, packages=(*m.packages, other)))
        publish_folder(site, "/m", made.root)
        url = f"{site.url}/m/runoff.json"
        result = runoff.race_model(url, QUICK)
        assert result.decision.chosen is not None
        assert {entrant.candidate.package_id for entrant in result.record.entrants} == {"a", "b"}
        assert "else.json" not in _asked(site)
        again = decide_for(
            find_folder(url, SourceOptions(offline=True, files=lambda _: ())), Wish(), result.environment
        )
        assert (again.basis, again.chosen) == ("measured", result.decision.chosen)


def test_model_of_the_registry_is_opened_by_its_alias(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RUNOFF_REGISTRY", str(tmp_path / "registry"))
    add_version(tmp_path / "registry", folder, "tiny", "1.2", ["tiny-4"])
    with AutoModel.from_pretrained("tiny-4") as model:
        np.testing.assert_allclose(model.run({"x": ROWS})["y"], expected(ROWS), rtol=1e-5)
    assert [(listed.name, listed.version) for listed in runoff.list_models() if listed.place == "registry"] == [
        ("tiny", "1.2")
    ]


def test_missing_model_is_an_error_that_names_it(tmp_path) -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        AutoModel.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda path: path.unlink(), ModelNotFound),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), DigestMismatch),
        (lambda path: path.write_bytes(path.read_bytes()[::-1]), DigestMismatch),
    ],
    ids=["missing", "truncated", "changed"],
)
def test_damaged_package_is_an_error_and_never_a_fallback(folder, damage, error) -> None:
    damage(folder.package("onnx-fp32").main_file)
    with pytest.raises(error, match=r"model\.onnx"):
        AutoModel.from_pretrained(folder.root)


def test_link_out_of_the_folder_is_refused(folder, tmp_path) -> None:
    path = folder.package("onnx-fp32").main_file
    outside = tmp_path / "outside.onnx"
    shutil.move(path, outside)
    path.symlink_to(outside)
    with pytest.raises(PathEscapes):
        AutoModel.from_pretrained(folder.root)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda data: data.update(surprise=1), ManifestInvalid),
        (lambda data: data.pop("signature"), ManifestInvalid),
        (lambda data: data.update(schema=99), ManifestInvalid),
        (lambda data: data["packages"][0].update(colour="red"), ManifestInvalid),
        (lambda data: data["packages"][0]["files"][0].update(path="../outside.onnx"), PathEscapes),
        (lambda data: data["packages"][0]["files"][0].update(path="/etc/passwd"), PathEscapes),
    ],
    ids=["unknown", "missing", "schema", "unknown in package", "out", "absolute"],
)
def test_manifest_that_cannot_be_right_is_refused(folder, change, error) -> None:
    rewrite_manifest(folder, change)
    with pytest.raises(error):
        AutoModel.from_pretrained(folder.root)


def test_bare_file_is_opened(tmp_path) -> None:
    path = write_tiny_onnx(tmp_path / "bare.onnx")
    with AutoModel.from_pretrained(path) as model:
        np.testing.assert_allclose(model.run({"x": ROWS})["y"], expected(ROWS), rtol=1e-5)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bare.onnx", "cache"], "nothing is left beside it"


@pytest.mark.parametrize("content", [b"", b"these are words", b"PK\x03\x04 and so on"])
def test_bare_file_that_is_not_what_its_name_says_is_refused(tmp_path, content) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises((FormatMismatch, RuntimeLoadError)):
        AutoModel.from_pretrained(path)


def test_package_that_the_runtime_cannot_read_is_a_failure_to_open(folder) -> None:
    with staging(folder.root) as staged:
        (staged / "model.onnx").write_bytes(b"these are words")
        described = (describe_file(staged, "model.onnx"),)
        entry = msgspec.structs.replace(folder.package("onnx-fp32").entry, files=described)
        add_package(folder.root, entry, staged)
    with pytest.warns(FallbackWarning), AutoModel.from_pretrained(folder.root) as model:
        assert model.package.id == "openvino-fp32"


def test_inputs_that_do_not_fit_are_refused_and_the_model_goes_on(folder) -> None:
    with AutoModel.from_pretrained(folder.root) as model:
        for inputs in (
            {"z": ROWS},
            {"x": ROWS.astype(np.float64)},
            {"x": ROWS[0]},
            {"x": ROWS[:, :3]},
            {"x": ROWS[:0]},
        ):
            with pytest.raises(InputError):
                model.run(inputs)
        assert model.run({"x": ROWS})["y"].shape == (2, 3)


def test_nan_is_answered_and_reported(folder) -> None:
    x = ROWS.copy()
    x[0, 0] = np.nan
    with AutoModel.from_pretrained(folder.root) as model:
        with pytest.warns(NotANumberWarning):
            y = model.run({"x": x})["y"]
        assert np.isnan(y[0]).all()
        np.testing.assert_allclose(y[1], expected(ROWS)[1], rtol=1e-5)


def test_made_for_another_batch_is_rejected(folder) -> None:
    change_manifest(
        folder.root,
        lambda old: msgspec.structs.replace(
            old, packages=tuple(msgspec.structs.replace(entry, batch=2) for entry in old.packages)
        ),
    )
    with pytest.raises(NoCandidate, match="made for batch 2, 3 was asked for"):
        AutoModel.from_pretrained(folder.root, batch_size=3)
    with AutoModel.from_pretrained(folder.root, batch_size=2) as model:
        assert model.run({"x": ROWS})["y"].shape == (2, 3)


def test_digit_is_predicted_with_its_label_and_score() -> None:
    with AutoModel.from_pretrained(DIGITS, backend="onnx") as model:
        prediction = model(DIGITS / "images" / "7.png")
        assert (prediction.label, prediction.class_id) == ("7", 7)
        assert 0.5 < prediction.score <= 1.0
        several = model([DIGITS / "images" / "3.png", DIGITS / "images" / "4.png"])
        assert [found.label for found in several] == ["3", "4"]
        with pytest.raises(InputError):
            model(DIGITS / "labels.txt")


def test_model_is_described_without_opening_it(folder) -> None:
    described = AutoModel.describe_model(folder.root)
    assert "onnx-fp32" in str(msgspec.to_builtins(described))


def test_environment_has_two_names() -> None:
    assert AutoModel.describe_runtime().fingerprint == AutoModel.describe_compute_environment().fingerprint


def test_models_folder_is_listed(tmp_path, monkeypatch) -> None:
    make_tiny_onnx(tmp_path / "models" / "one", "one")
    monkeypatch.setenv("RUNOFF_MODELS", str(tmp_path / "models"))
    assert [listed.name for listed in AutoModel.list_models()] == ["one"]
