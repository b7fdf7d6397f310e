"""A registry leads from names, versions and aliases to model folders, and refuses what leads elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fakes.model_files import make_folder
from runoff.errors import (
    DigestMismatch,
    InputError,
    ManifestInvalid,
    ModelError,
    ModelNotFound,
    PathEscapes,
    UnknownName,
)
from runoff.models.folder import staging
from runoff.models.listing import list_models
from runoff.models.registry import add_version, list_registry
from runoff.models.sources import Found, SourceOptions, find_source


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry that was made by hand, without a file of its own."""
    for version in ("1.0-rc1", "1.0", "1.9", "1.10"):
        make_folder(tmp_path / "registry" / "yolov8n" / version, content=version.encode())
    make_folder(tmp_path / "registry" / "bert" / "2026-01-31")
    monkeypatch.setenv("RUNOFF_REGISTRY", str(tmp_path / "registry"))
    return tmp_path / "registry"


def _write(root: Path, **content: object) -> None:
    (root / "registry.json").write_text(json.dumps({"schema": 1, **content}))


@pytest.mark.parametrize(
    ("reference", "place"),
    [
        ("yolov8n", "yolov8n/1.10"),
        ("yolov8n@latest", "yolov8n/1.10"),
        ("yolov8n@1.9", "yolov8n/1.9"),
        ("yolov8n@1.0-rc1", "yolov8n/1.0-rc1"),
        ("bert", "bert/2026-01-31"),
        ("yolov8n-640", "yolov8n/1.9"),
        ("detector", "yolov8n/1.9"),
        ("newest", "yolov8n/1.10"),
        ("yolov8n@stable", "yolov8n/1.0"),
    ],
)
def test_reference_leads_to_its_folder(root, reference, place):
    _write(
        root,
        aliases={
            "yolov8n-640": "yolov8n@1.9",
            "detector": "yolov8n-640",
            "newest": "yolov8n",
            "yolov8n@stable": "yolov8n@1.0",
        },
    )
    assert find_source(reference) == Found(root / place, "registry", f"{root}/{reference}")


def test_pre_release_is_not_the_latest(root):
    for version in ("1.9", "1.10"):
        shutil.rmtree(root / "yolov8n" / version)
    assert find_source("yolov8n").path.name == "1.0"


def test_registry_given_as_an_option_comes_before_the_setting(root, tmp_path):
    make_folder(tmp_path / "other" / "own" / "1")
    assert find_source("own", SourceOptions(registry=tmp_path / "other")).path == tmp_path / "other" / "own" / "1"


def test_file_of_the_same_name_comes_first(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "bert")
    assert find_source("bert").kind == "folder"


def test_unknown_names_and_versions_are_refused_with_the_known_ones(root):
    with pytest.raises(UnknownName, match="known: bert, yolov8n") as refused:
        find_source("yolov8")
    assert "yolov8n" in (refused.value.hint or "")
    with pytest.raises(ModelNotFound, match=r"has no yolov8n@2; it has 1.10, 1.9, 1.0, 1.0-rc1"):
        find_source("yolov8n@2")
    with pytest.raises(ModelNotFound, match="no registry"):
        find_source("bert", SourceOptions(registry=root / "none"))


def test_plain_name_without_a_registry_names_the_setting(monkeypatch):
    monkeypatch.delenv("RUNOFF_REGISTRY", raising=False)
    with pytest.raises(ModelNotFound) as refused:
        find_source("yolov8n-640")
    assert "RUNOFF_REGISTRY" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("aliases", "why"),
    [
        ({"a": "b", "b": "a"}, "a -> b -> a"),
        ({"a": "a"}, "a -> a"),
        ({"a": "nothing"}, "no model 'nothing'"),
        ({"a": "../outside"}, "neither a name nor name@version"),
        ({"a": "/etc"}, "neither a name nor name@version"),
        ({"a": "yolov8n@../../x"}, "neither a name nor name@version"),
        ({"a": 3}, "Expected `str`"),
        ({f"a{i}": f"a{i + 1}" for i in range(30)} | {"a": "a0"}, "in a circle or too far"),
    ],
)
def test_alias_that_leads_nowhere_is_refused(root, aliases, why):
    _write(root, aliases=aliases)
    with pytest.raises(ManifestInvalid, match=why):
        find_source("a")


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2}', '{"schema": 1, "alias": {}}', '{"aliases": null}'])
def test_broken_registry_file_is_refused(root, text):
    (root / "registry.json").write_text(text)
    with pytest.raises(ManifestInvalid):
        find_source("bert")


def test_huge_registry_file_is_refused(root):
    with (root / "registry.json").open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(ManifestInvalid, match="more than 16 MiB"):
        find_source("bert")


def test_link_out_of_the_registry_is_refused(root, tmp_path):
    outside = make_folder(tmp_path / "outside").root
    (root / "bert" / "9").symlink_to(outside, target_is_directory=True)
    with pytest.raises(PathEscapes):
        find_source("bert@9")
    problems = {(entry.name, entry.version): entry.problem for entry in list_registry(root)}
    assert "leads out" in (problems["bert", "9"] or "")
    assert problems["bert", "2026-01-31"] is None


def test_model_is_added_with_its_aliases_and_found_again(root, tmp_path):
    made = make_folder(tmp_path / "made")
    entry = add_version(root, made, "tiny", "0.1", ["tiny-3", "small"])
    assert (entry.is_latest, entry.aliases) == (True, ("small", "tiny-3"))
    for reference in ("tiny", "tiny@0.1", "tiny-3", "small"):
        assert find_source(reference).path == root / "tiny" / "0.1"
    add_version(root, made, "tiny", "0.2", ["small"])
    assert find_source("small").path.name == "0.2"
    assert find_source("tiny-3").path.name == "0.1"
    assert not list(root.rglob("*.tmp"))


def test_first_model_makes_the_registry(tmp_path):
    add_version(tmp_path / "new" / "registry", make_folder(tmp_path / "made"), "tiny", "1")
    assert [entry.name for entry in list_registry(tmp_path / "new" / "registry")] == ["tiny"]


@pytest.mark.parametrize(
    ("name", "version", "aliases"),
    [
        ("../tiny", "1", []),
        ("Tiny", "1", []),
        ("tiny", "latest", []),
        ("tiny", "../1", []),
        ("tiny", "1", ["a/b"]),
        ("tiny", "1", ["bert"]),
        ("tiny", "1", ["tiny"]),
    ],
)
def test_wrong_names_are_refused_and_nothing_is_added(root, tmp_path, name, version, aliases):
    before = sorted(path for path in root.rglob("*") if path.name != ".runoff-lock")
    with pytest.raises(InputError):
        add_version(root, make_folder(tmp_path / "made"), name, version, aliases)
    after = sorted(path for path in root.rglob("*") if "lock" not in path.name)
    assert after == before


def test_version_is_never_replaced_and_a_damaged_model_never_added(root, tmp_path):
    made = make_folder(tmp_path / "made")
    with pytest.raises(ModelError, match=r"has bert@2026-01-31 already"):
        add_version(root, made, "bert", "2026-01-31")
    made.reference.main_file.write_bytes(b"x")
    with pytest.raises(DigestMismatch):
        add_version(root, made, "tiny", "1")
    with pytest.raises(UnknownName):
        find_source("tiny")


def test_other_model_in_the_place_of_a_version_is_refused(root, tmp_path):
    add_version(root, make_folder(tmp_path / "made"), "tiny", "1")
    shutil.rmtree(root / "tiny" / "1")
    make_folder(root / "tiny" / "1", content=b"other weights")
    with pytest.raises(DigestMismatch, match="not the model that"):
        find_source("tiny")


def test_package_that_a_race_adds_leaves_the_digest_as_it_is(root, tmp_path):
    from fakes.model_files import package_of
    from runoff.models.folder import add_package

    add_version(root, make_folder(tmp_path / "made"), "tiny", "1")
    with staging(root / "tiny" / "1") as staged:
        add_package(root / "tiny" / "1", package_of("openvino-fp32", {"model.xml": b"x"}, staged), staged)
    assert find_source("tiny").path == root / "tiny" / "1"


def test_versions_are_listed_with_aliases_packages_and_size(root):
    _write(root, aliases={"yolov8n-640": "yolov8n@1.9", "lost": "nothing"})
    found = [model for model in list_models() if model.place == "registry"]
    assert [(model.name, model.version, model.is_latest, model.aliases) for model in found] == [
        ("bert", "2026-01-31", True, ()),
        ("yolov8n", "1.10", True, ()),
        ("yolov8n", "1.9", False, ("yolov8n-640",)),
        ("yolov8n", "1.0", False, ()),
        ("yolov8n", "1.0-rc1", False, ()),
    ]
    assert {model.packages for model in found} == {("onnx-fp32",)}
    assert found[0].bytes == len(b"reference weights") + len(b"a\nb\n")
