"""A model is found by path, URL, registered source or hub id, in that order, and refused when it is none."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.model_files import make_folder, make_hf_folder, onnx_bytes, package_of
from fakes.web import publish_folder, serve
from runoff.errors import (
    DigestMismatch,
    FormatMismatch,
    InputError,
    ManifestInvalid,
    ModelNotFound,
    SourceError,
    UnknownName,
)
from runoff.models.folder import add_package, read_folder, staging
from runoff.models.sources import Found, SourceOptions, find_source
from runoff.models.upkeep import verify as verify_cache

ONNX = onnx_bytes()
DIGEST = hashlib.sha256(ONNX).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def site():
    with serve() as served:
        served.files["/m.onnx"] = ONNX
        yield served


def test_model_folder_is_found_by_path_or_by_its_manifest(tmp_path):
    root = make_folder(tmp_path / "m").root
    assert find_source(root) == Found(root, "folder", str(root))
    assert find_source("m") == Found(Path("m"), "folder", "m")
    assert find_source(root / "runoff.json").path == root


def test_local_folder_wins_when_it_reads_like_a_hub_id(tmp_path):
    make_folder(tmp_path / "org" / "name")
    assert find_source("org/name").kind == "folder"


def test_hugging_face_folder_and_bare_file_are_found(tmp_path):
    assert find_source(make_hf_folder(tmp_path / "bert")).kind == "folder"
    (tmp_path / "m.onnx").write_bytes(ONNX)
    assert find_source("m.onnx") == Found(Path("m.onnx"), "file", "m.onnx")
    assert find_source("m.onnx", SourceOptions(sha256=DIGEST)).kind == "file"


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_folder(tmp_path / "m")
    assert find_source("~/m").path == tmp_path / "m"


@pytest.mark.parametrize("model", ["none", "./none", "a/b/c", "/none/here.onnx", "", "a\0b", "x" * 5000, "none.onnx"])
def test_model_is_not_found_when_the_text_is_nothing_known(model):
    with pytest.raises(ModelNotFound, match="no such file or folder"):
        find_source(model)


def test_local_model_is_refused_when_its_content_is_wrong(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"text")
    with pytest.raises(FormatMismatch):
        find_source("m.onnx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatMismatch, match="no model folder"):
        find_source("empty")
    (make_folder(tmp_path / "m").root / "runoff.json").write_text('{"schema": 1}')
    with pytest.raises(ManifestInvalid):
        find_source("m")


def test_options_are_refused_when_they_do_not_apply(tmp_path, site):
    make_folder(tmp_path / "m")
    for model, options in (
        ("m", SourceOptions(revision="main")),
        ("m", SourceOptions(sha256=DIGEST)),
        (f"{site.url}/m.onnx", SourceOptions(revision="main")),
        (f"{site.url}/m.onnx", SourceOptions(sha256="abc")),
        (f"{site.url}/m.onnx#md5=abc", SourceOptions()),
        (f"{site.url}/m.onnx#sha256={DIGEST}", SourceOptions(sha256="0" * 64)),
        ("org/name", SourceOptions(sha256=DIGEST)),
    ):
        with pytest.raises(InputError):
            find_source(model, options)


def test_file_is_refused_when_its_digest_is_another(tmp_path):
    (tmp_path / "m.onnx").write_bytes(ONNX)
    with pytest.raises(DigestMismatch, match=DIGEST):
        find_source("m.onnx", SourceOptions(sha256="0" * 64))


@pytest.mark.parametrize("form", ["{url}", "{url}#sha256={digest}"])
def test_url_is_fetched_into_the_cache(site, cache, form):
    found = find_source(form.format(url=f"{site.url}/m.onnx?key=secret", digest=DIGEST))
    assert (found.kind, found.origin) == ("url", f"{site.url}/m.onnx")
    assert found.path.is_relative_to(cache)
    assert found.path.read_bytes() == ONNX


def test_url_is_refused_when_it_answers_with_a_page(site):
    site.files["/m.onnx"] = b"<!DOCTYPE html><html>sign in</html>"
    with pytest.raises(FormatMismatch, match="HTML"):
        find_source(f"{site.url}/m.onnx")


def test_model_folder_is_fetched_when_the_url_is_that_of_its_manifest(site, cache, tmp_path):
    made = make_folder(tmp_path / "m")
    publish_folder(site, "/zoo", made.root)
    found = find_source(f"{site.url}/zoo/runoff.json")
    assert found.path.is_relative_to(cache / "models")
    assert read_folder(found.path).manifest == made.manifest
    read_folder(found.path).reference.verify()
    count = len(site.requests)
    assert find_source(f"{site.url}/zoo/runoff.json", SourceOptions(offline=True)).path == found.path
    assert len(site.requests) == count


def test_no_part_of_a_remote_folder_is_kept_when_a_file_is_damaged(site, cache, tmp_path):
    publish_folder(site, "/zoo", make_folder(tmp_path / "m").root)
    site.files["/zoo/labels.txt"] = b"c\nd\n"
    with pytest.raises(DigestMismatch):
        find_source(f"{site.url}/zoo/runoff.json")
    assert list((cache / "models").glob("*")) == []


def _two_packages(root):
    """A model folder with the packages onnx-fp32 and openvino-fp32 and labels."""
    made = make_folder(root)
    with staging(root) as staged:
        add_package(
            root, package_of("openvino-fp32", {"model.xml": b"x" * 500, "model.bin": b"w" * 900}, staged), staged
        )
    return read_folder(made.root)


def _only(*packages):
    return SourceOptions(files=lambda manifest: manifest.files_of(packages))


def _asked(site):
    return [path.removeprefix("/zoo/") for method, path, _ in site.requests if method == "GET"]


def test_only_the_files_of_the_chosen_package_are_fetched_and_the_others_when_they_are_wanted(site, tmp_path):
    made = _two_packages(tmp_path / "m")
    publish_folder(site, "/zoo", made.root)
    url = f"{site.url}/zoo/runoff.json"
    head = find_source(url, _only()).path
    assert sorted(_asked(site)) == ["labels.txt", "runoff.json"]
    assert read_folder(head).manifest == made.manifest
    site.requests.clear()
    assert find_source(url, _only("openvino-fp32")).path == head
    assert sorted(_asked(site)) == [
        "packages/openvino-fp32/model.bin",
        "packages/openvino-fp32/model.xml",
        "runoff.json",
    ]
    read_folder(head).package("openvino-fp32").verify()
    assert not read_folder(head).reference.is_here()
    site.requests.clear()
    assert find_source(url).path == head
    assert sorted(_asked(site)) == ["packages/onnx-fp32/model.onnx", "runoff.json"]
    site.requests.clear()
    find_source(url)
    assert _asked(site) == ["runoff.json"]


def test_package_that_was_not_fetched_is_refused_offline_and_the_rest_is_used(site, tmp_path):
    publish_folder(site, "/zoo", _two_packages(tmp_path / "m").root)
    url = f"{site.url}/zoo/runoff.json"
    head = find_source(url, _only("openvino-fp32")).path
    assert find_source(url, replace(_only("openvino-fp32"), offline=True)).path == head
    with pytest.raises(SourceError, match=r"offline: .*model.onnx is not in the cache"):
        find_source(url, SourceOptions(offline=True))


def test_later_file_that_is_damaged_is_refused_and_not_kept(site, tmp_path):
    publish_folder(site, "/zoo", _two_packages(tmp_path / "m").root)
    url = f"{site.url}/zoo/runoff.json"
    head = find_source(url, _only()).path
    right = site.files["/zoo/packages/openvino-fp32/model.bin"]
    site.files["/zoo/packages/openvino-fp32/model.bin"] = b"v" * len(right)
    with pytest.raises(DigestMismatch):
        find_source(url, _only("openvino-fp32"))
    assert not (head / "packages" / "openvino-fp32" / "model.bin").exists()
    site.files["/zoo/packages/openvino-fp32/model.bin"] = right
    find_source(url, _only("openvino-fp32"))
    read_folder(head).package("openvino-fp32").verify()


def test_transfer_of_a_package_that_was_cut_goes_on_where_it_ended(site, tmp_path):
    publish_folder(site, "/zoo", _two_packages(tmp_path / "m").root)
    path = "/zoo/packages/openvino-fp32/model.bin"
    site.cuts[path] = [300]
    head = find_source(f"{site.url}/zoo/runoff.json", _only("openvino-fp32")).path
    assert [headers.get("Range") for headers in site.asked(path)] == [None, "bytes=300-"]
    read_folder(head).package("openvino-fp32").verify()


def test_partial_folder_in_the_cache_is_whole_until_a_package_loses_a_file(site, tmp_path):
    publish_folder(site, "/zoo", _two_packages(tmp_path / "m").root)
    head = find_source(f"{site.url}/zoo/runoff.json", _only("openvino-fp32")).path
    assert verify_cache() == []
    (head / "packages" / "openvino-fp32" / "model.bin").unlink()
    (finding,) = verify_cache()
    assert finding.problem == "packages/openvino-fp32/model.bin is missing"


def test_offline_setting_is_obeyed(site, monkeypatch):
    monkeypatch.setenv("RUNOFF_OFFLINE", "1")
    with pytest.raises(SourceError, match="offline"):
        find_source(f"{site.url}/m.onnx")
    assert site.requests == []


_PLUGIN = """
from pathlib import Path

calls = []

class Zoo:
    def fetch(self, reference, into):
        calls.append(reference)
        if reference == "raises":
            raise KeyError(reference)
        if reference == "nothing":
            return into / "none"
        if reference == "own":
            return Path({own!r})
        (into / "sub").mkdir()
        (into / "sub" / "m.onnx").write_bytes({content!r})
        if reference == "breaks":
            raise OSError(28, "No space left on device")
        return into / "sub" / "m.onnx"

instance = Zoo()
not_a_provider = 3
"""
_POINTS = """[runoff.sources]
zoo = zoo_plugin:Zoo
shared = zoo_plugin:instance
broken = zoo_missing:Zoo
wrong = zoo_plugin:not_a_provider
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A distribution on the path with real entry points."""
    own = tmp_path / "own.onnx"
    own.write_bytes(ONNX)
    site = tmp_path / "site"
    info = site / "zoo_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(_POINTS)
    (site / "zoo_plugin.py").write_text(_PLUGIN.format(own=str(own), content=ONNX))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(__import__("sys").modules, "zoo_plugin", raising=False)
    import zoo_plugin

    return zoo_plugin


@pytest.mark.parametrize("model", ["zoo:resnet", "zoo://resnet", "shared:resnet", "ZOO:resnet"])
def test_registered_source_is_asked_once(plugin, cache, model):
    found = find_source(model)
    assert found.kind == model.partition(":")[0].lower()
    assert found.path.name == "m.onnx"
    assert found.path.is_relative_to(cache / "provided")
    assert found.path.read_bytes() == ONNX
    assert find_source(model, SourceOptions(offline=True)) == found
    assert plugin.calls == ["resnet"]
    assert find_source(model, SourceOptions(refresh=True)) == found
    assert plugin.calls == ["resnet", "resnet"]


def test_registered_source_may_answer_a_path_of_its_own(plugin, tmp_path):
    assert find_source("zoo:own").path == tmp_path / "own.onnx"


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("zoo:raises", "KeyError"),
        ("zoo:nothing", "no file or folder"),
        ("broken:x", "plug-in of source 'broken' is broken"),
        ("wrong:x", "no method fetch"),
    ],
)
def test_broken_source_is_an_error_that_names_it(plugin, cache, model, why):
    with pytest.raises(SourceError, match=why):
        find_source(model)
    assert not (cache / "provided").exists() or list((cache / "provided").iterdir()) == []


def test_nothing_is_kept_when_a_fetch_breaks_half_way(plugin, cache):
    with pytest.raises(SourceError, match="No space left"):
        find_source("zoo:breaks")
    assert list((cache / "provided").iterdir()) == []


def test_unknown_scheme_names_the_known_ones(plugin):
    with pytest.raises(UnknownName, match="broken, http, https, shared, wrong, zoo"):
        find_source("zo:resnet")


def test_thing_that_is_no_name_is_refused_with_the_way_to_package_it():
    with pytest.raises(InputError, match="not by a int") as refused:
        find_source(3)
    assert "runoff.package" in (refused.value.hint or "")
