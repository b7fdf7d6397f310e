"""The manifest is read strictly: what is unknown, missing, impossible or outside the folder is refused."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.model_files import make_folder
from runoff.errors import ManifestInvalid, PathEscapes, RunoffError
from runoff.models.folder import resolve
from runoff.models.manifest import check_path, dump_manifest, parse_manifest


@pytest.fixture
def data(tmp_path):
    return json.loads(dump_manifest(make_folder(tmp_path / "m").manifest))


def _parse(data):
    return parse_manifest(json.dumps(data).encode())


def _change(data, path, value):
    *parents, last = path
    for key in parents:
        data = data[key]
    if value is ...:
        del data[last]
    else:
        data[last] = value


def test_manifest_reads_back_what_was_written(tmp_path):
    manifest = make_folder(tmp_path / "m").manifest
    assert parse_manifest(dump_manifest(manifest)) == manifest


_FILE = ("packages", 0, "files", 0)


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("schema",), ..., "schema"),
        (("schema",), 2, "reads schema 1"),
        (("schema",), "1", "schema"),
        (("name",), ..., "name"),
        (("signature",), ..., "signature"),
        (("packages",), ..., "packages"),
        (("packages",), {}, "packages"),
        (("unknown",), 1, "unknown"),
        (("packages", 0, "unknown"), 1, "unknown"),
        ((*_FILE, "unknown"), 1, "unknown"),
        (("signature", "inputs", 0, "unknown"), 1, "unknown"),
        (("signature", "inputs", 0, "dtype"), "float", "float"),
        (("signature", "inputs", 0, "shape"), ["batch", -1], "dynamic one is a name"),
        (("signature", "inputs", 0, "shape"), ["batch", 1.5], "shape"),
        (("signature", "inputs"), [], "no input"),
        (("signature", "outputs"), [], "no output"),
        (("reference",), "torch-fp32", "none of the packages"),
        (("packages", 0, "id"), "../x", "package id"),
        (("packages", 0, "id"), "", "package id"),
        (("packages", 0, "id"), "UPPER", "package id"),
        (("packages", 0, "precision"), "fp8", "fp8"),
        (("packages", 0, "files"), [], "no files"),
        (("packages", 0, "batch"), 0, "batch 0"),
        ((*_FILE, "sha256"), "abc", "64 hexadecimal"),
        ((*_FILE, "bytes"), -1, "negative"),
        ((*_FILE, "bytes"), ..., "bytes"),
    ],
)
def test_manifest_is_refused_when_a_field_is_unknown_missing_or_impossible(data, path, value, why):
    _change(data, path, value)
    with pytest.raises(ManifestInvalid, match=why):
        _parse(data)


def test_manifest_is_refused_when_two_packages_or_inputs_share_a_name(data):
    twice = json.loads(json.dumps(data))
    twice["packages"] *= 2
    with pytest.raises(ManifestInvalid, match="same id"):
        _parse(twice)
    data["signature"]["inputs"] *= 2
    with pytest.raises(ManifestInvalid, match="same name"):
        _parse(data)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": 1', b"<html>", b'{"schema": 1e400}', b"[" * 5000],
)
def test_manifest_is_refused_when_it_is_not_the_json_of_one(content):
    with pytest.raises(ManifestInvalid):
        parse_manifest(content, "here/runoff.json")


def test_manifest_is_refused_when_it_is_nested_without_end(data):
    text = json.dumps({**data, "preprocess": {"deep": "here"}})
    deep = "[" * 100_000 + "]" * 100_000
    with pytest.raises(ManifestInvalid, match="recursion"):
        parse_manifest(text.replace('"here"', deep).encode())


_ESCAPES = [
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a/..",
    ".",
    "",
    "a//b",
    "./a",
    "a/",
    "C:/x",
    "a\\b",
    "a\0b",
    "~/../x/..",
]


@pytest.mark.parametrize("path", _ESCAPES)
@pytest.mark.parametrize("place", [(*_FILE, "path"), ("labels", "path")])
def test_manifest_is_refused_when_a_path_leaves_the_folder(data, place, path):
    _change(data, place, path)
    with pytest.raises(PathEscapes, match="not a plain path"):
        _parse(data)


@given(data=st.binary(max_size=300))
def test_parsing_random_bytes_raises_only_our_errors(data):
    with pytest.raises(RunoffError):
        parse_manifest(data)


_PARTS = st.one_of(
    st.sampled_from(["..", ".", "", "a", "b.onnx", "\\", "C:", "\0", "~", "…", " "]), st.text(max_size=4)
)


@given(parts=st.lists(_PARTS, max_size=6), absolute=st.booleans())
def test_a_path_that_passes_stays_inside_the_folder(tmp_path_factory, parts, absolute):
    path = ("/" if absolute else "") + "/".join(parts)
    root = Path("/models/m")
    try:
        check_path(path)
    except PathEscapes:
        return
    assert (root / path).is_relative_to(root)
    assert resolve(root, path) == root / path


@given(links=st.lists(st.sampled_from(["..", ".", "inner", "../..", "/tmp", "loop", "inner/../.."]), max_size=3))
def test_a_path_through_symlinks_resolves_inside_or_is_refused(tmp_path_factory, links):
    base = tmp_path_factory.mktemp("links")
    root = base / "m"
    (root / "inner").mkdir(parents=True)
    at = root / "inner"
    for number, target in enumerate(links):
        (at / f"link{number}").symlink_to(target)
    for number in range(len(links)):
        try:
            found = resolve(root, f"inner/link{number}/x")
        except PathEscapes:
            continue
        assert found.resolve().is_relative_to(root.resolve())


@given(name=st.text(max_size=30), task=st.one_of(st.none(), st.text(max_size=30)))
def test_any_name_survives_writing(tmp_path_factory, name, task):
    manifest = _MANIFEST.setdefault("it", make_folder(tmp_path_factory.mktemp("any") / "m").manifest)
    changed = msgspec.structs.replace(manifest, name=name, task=task)
    assert parse_manifest(dump_manifest(changed)) == changed


_MANIFEST: dict = {}
