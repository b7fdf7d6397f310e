"""The hub as `huggingface_hub` really talks to it, served from the loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.hub import fetched, publish
from fakes.model_files import make_folder, package_of, safetensors_bytes
from fakes.web import serve
from runoff import settings
from runoff.errors import ModelError
from runoff.models.folder import add_package, staging
from runoff.models.hub import choose_files, parse_hub_id

# The library reads its variables when it is imported, so that each call needs a process of its own.
_FIND = """
import json, sys
from runoff.errors import RunoffError
from runoff.models.sources import SourceOptions, find_source
try:
    options = json.loads(sys.argv[2])
    packages = options.pop("packages", None)
    files = None if packages is None else lambda manifest: manifest.files_of(packages)
    found = find_source(sys.argv[1], SourceOptions(**options, files=files))
    print(json.dumps({"path": str(found.path), "kind": found.kind, "origin": found.origin}))
except RunoffError as error:
    print(json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint}))
"""
_BERT = {
    "config.json": b'{"model_type": "bert", "architectures": ["BertModel"]}',
    "tokenizer.json": b"{}",
    "vocab.txt": b"a\nb",
    "model.safetensors": safetensors_bytes(),
    "pytorch_model.bin": b"\x80\x02pickle",
    "tf_model.h5": b"other framework",
    "onnx/model.onnx": b"other form",
    "modeling_custom.py": b"raise SystemExit",
    "README.md": b"# bert",
}


@pytest.fixture
def site():
    with serve() as served:
        yield served


@pytest.fixture
def find(site, tmp_path):
    def call(model: str, token: str = "", **options: object) -> dict[str, str]:
        environment = settings.child_environment(
            HF_TOKEN=token,
            HF_ENDPOINT=site.url,
            HF_HOME=str(tmp_path / "hf"),
            HF_HUB_DISABLE_XET="1",
            HF_HUB_DISABLE_PROGRESS_BARS="1",
            RUNOFF_CACHE=str(tmp_path / "cache"),
        )
        done = subprocess.run(
            [sys.executable, "-c", _FIND, model, json.dumps(options)],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            check=True,
            timeout=120,
        )
        return json.loads(done.stdout)

    return call


def _files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_only_the_needed_files_are_fetched_when_there_is_no_manifest(site, find):
    publish(site, "org/bert", _BERT)
    found = find("org/bert")
    assert (found["kind"], found["origin"]) == ("hub", "org/bert")
    assert fetched(site, "org/bert") == {"config.json", "tokenizer.json", "vocab.txt", "model.safetensors"}
    assert (Path(found["path"]) / "model.safetensors").read_bytes() == _BERT["model.safetensors"]


def test_the_files_of_the_manifest_are_fetched_when_there_is_one(site, find, tmp_path):
    made = make_folder(tmp_path / "m")
    files = {
        path.relative_to(made.root).as_posix(): path.read_bytes() for path in made.root.rglob("*") if path.is_file()
    }
    publish(site, "org/tiny", {**files, "training.log": b"x" * 100})
    found = find("org/tiny")
    root = Path(found["path"])
    assert root.is_relative_to(tmp_path / "cache" / "models")
    assert not any(path.is_symlink() for path in root.rglob("*"))
    assert fetched(site, "org/tiny") == {"runoff.json", "labels.txt", "packages/onnx-fp32/model.onnx"}


def test_folder_is_refused_when_a_file_on_the_hub_is_not_the_one_of_the_manifest(site, find, tmp_path):
    made = make_folder(tmp_path / "m")
    files = {
        path.relative_to(made.root).as_posix(): path.read_bytes() for path in made.root.rglob("*") if path.is_file()
    }
    publish(site, "org/tiny", {**files, "labels.txt": b"a\nc\n"})
    assert find("org/tiny")["error"] == "DigestMismatch"
    assert not list((tmp_path / "cache" / "models").iterdir())


def test_revision_is_honoured_in_both_spellings(site, find):
    old = publish(site, "org/bert", _BERT)
    publish(site, "org/bert", {**_BERT, "vocab.txt": b"newer"})
    for found in (find("org/bert", revision=old), find(f"org/bert@{old}")):
        assert (Path(found["path"]) / "vocab.txt").read_bytes() == b"a\nb"
        assert found["origin"] == f"org/bert@{old}"
    assert (Path(find("org/bert")["path"]) / "vocab.txt").read_bytes() == b"newer"


def test_offline_answers_from_the_cache_of_the_library(site, find, tmp_path):
    assert find("org/bert", offline=True)["error"] == "SourceError"
    publish(site, "org/bert", _BERT)
    made = make_folder(tmp_path / "m")
    files = {
        path.relative_to(made.root).as_posix(): path.read_bytes() for path in made.root.rglob("*") if path.is_file()
    }
    publish(site, "org/tiny", files)
    online = [find("org/bert"), find("org/tiny")]
    count = len(site.requests)
    assert [find("org/bert", offline=True), find("org/tiny", offline=True)] == online
    assert len(site.requests) == count


def _published(site, root: Path) -> dict[str, bytes]:
    """A model of two packages as `org/two` on the hub."""
    made = make_folder(root)
    with staging(root) as staged:
        add_package(root, package_of("openvino-fp32", {"m.xml": b"x" * 500, "m.bin": b"w" * 900}, staged), staged)
    files = {name: data for name, data in _files(made.root).items() if not name.startswith(".")}
    publish(site, "org/two", files)
    return files


def test_only_the_chosen_package_is_fetched_and_the_other_one_when_it_is_wanted(site, find, tmp_path):
    files = _published(site, tmp_path / "m")
    root = Path(find("org/two", packages=[])["path"])
    assert fetched(site, "org/two") == {"runoff.json", "labels.txt"}
    assert Path(find("org/two", packages=["openvino-fp32"])["path"]) == root
    assert fetched(site, "org/two") == set(files) - {"packages/onnx-fp32/model.onnx"}
    assert Path(find("org/two", offline=True, packages=["openvino-fp32"])["path"]) == root
    refused = find("org/two", offline=True)
    assert refused["error"] == "SourceError"
    assert "packages/onnx-fp32/model.onnx was never fetched" in refused["message"]
    assert Path(find("org/two")["path"]) == root
    assert _files(root) == files


def test_transfer_that_was_cut_is_finished_or_refused_and_the_next_call_has_the_file(site, find, tmp_path):
    files = _published(site, tmp_path / "m")
    site.cuts["/org/two/resolve/main/packages/openvino-fp32/m.bin"] = [100] * 3
    first = find("org/two")
    assert first.get("error") in (None, "SourceError")
    root = Path(find("org/two")["path"])
    assert _files(root) == files


def test_private_repository_is_read_with_the_token_of_the_environment(site, find):
    publish(site, "org/bert", _BERT)
    site.token = "hf_secret"
    site.missing_headers["X-Error-Code"] = "RepoNotFound"
    refused = find("org/bert")
    assert refused["error"] == "ModelNotFound"
    assert "HF_TOKEN" in refused["hint"]
    found = find("org/bert", token="hf_secret")
    assert (Path(found["path"]) / "model.safetensors").read_bytes() == _BERT["model.safetensors"]
    assert "hf_secret" not in json.dumps(found)


def test_unknown_repository_says_both_where_it_was_looked_for(site, find):
    site.missing_headers["X-Error-Code"] = "RepoNotFound"
    answer = find("org/none")
    assert answer["error"] == "ModelNotFound"
    assert "no file or folder org/none here, and no such model on the hub" in answer["message"]


def test_unknown_revision_is_not_found(site, find):
    publish(site, "org/bert", _BERT)
    site.missing_headers["X-Error-Code"] = "RevisionNotFound"
    answer = find("org/bert", revision="v9")
    assert answer["error"] == "ModelNotFound"
    assert "no such revision" in answer["message"]


def test_gated_repository_names_the_token(site, find):
    site.missing_headers["X-Error-Code"] = "GatedRepo"
    answer = find("org/gated")
    assert answer["error"] == "SourceError"
    assert "HF_TOKEN" in answer["hint"]


def test_unreachable_hub_is_a_source_error(site, find):
    site.url = "http://127.0.0.1:9"
    answer = find("org/bert")
    assert answer["error"] == "SourceError"
    assert "org/bert" in answer["message"]


def test_repository_is_refused_when_its_weights_are_pickles(site, find):
    publish(site, "org/bert", {name: data for name, data in _BERT.items() if not name.endswith(".safetensors")})
    answer = find("org/bert")
    assert answer["error"] == "ModelError"
    assert "pickles" in answer["message"]
    assert fetched(site, "org/bert") == set()


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["model.safetensors", "consolidated.safetensors"], ["model.safetensors"]),
        (["weights.safetensors"], ["weights.safetensors"]),
        (
            [
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "consolidated-00001-of-00002.safetensors",
                "model.fp16.safetensors",
            ],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
    ],
)
def test_one_set_of_weights_is_chosen(names, weights):
    chosen = choose_files(["config.json", *names, "fp16/model.safetensors"])
    assert [name for name in chosen if name.endswith(".safetensors")] == weights


def test_hint_names_the_exported_file_when_a_repository_has_no_configuration():
    with pytest.raises(ModelError) as caught:
        choose_files(["onnx/model.onnx", "README.md"])
    assert "resolve/main/onnx/model.onnx" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", ("org/name", None)),
        ("org/na.me-1_x@v1.0", ("org/na.me-1_x", "v1.0")),
        ("org/name@refs/pr/3", ("org/name", "refs/pr/3")),
        ("name", None),
        ("a/b/c", None),
        ("../x", None),
        ("a/..", None),
        ("/a/b", None),
        ("./a", None),
        ("", None),
    ],
)
def test_hub_id_is_told_from_other_text(text, expected):
    assert parse_hub_id(text) == expected
