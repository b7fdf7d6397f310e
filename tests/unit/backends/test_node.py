"""Models in a process of Node.js: what crosses the pipe, and what is said when the other side fails."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from conformance.builders import NETS, build
from fakes.javascript import javascript_cache, node
from runoff.backends import table
from runoff.backends.node import NodeSession, PageConfig, decode_frame, encode_frame
from runoff.backends.protocol import SessionOptions
from runoff.environment.javascript import WEB
from runoff.errors import FormatMismatch, RuntimeLoadError, RuntimeRunError
from runoff.models.folder import Package, describe_tree


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNOFF_CACHE", str(javascript_cache("tfjs")))
        yield build(tmp_path_factory.mktemp("models"), NETS["pooler"], "tfjs")


def test_frames_are_the_same_on_both_sides(tmp_path: Path) -> None:
    arrays = {
        "floats": np.array([[1.5, -0.0], [np.inf, np.nan]], np.float32),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.int32),
        "bools": np.array([True, False]),
        "odd": np.arange(3, dtype=np.uint8),
        "wide": np.array([2**62], np.int64),
    }
    given = tmp_path / "frame.bin"
    given.write_bytes(b"".join(encode_frame({"details": {"word": "é"}}, arrays)))
    script = (
        f"import {{ decodeFrame, encodeFrame }} from '{(WEB / 'page' / 'tensors.js').as_uri()}';"
        "import { readFileSync, writeFileSync } from 'node:fs';"
        "const { header, tensors } = decodeFrame(readFileSync(process.argv[1]));"
        "writeFileSync(process.argv[2], encodeFrame({ details: header.details }, tensors));"
    )
    back = tmp_path / "back.bin"
    subprocess.run(
        [node(), "--no-warnings", "--input-type=module", "-e", script, str(given), str(back)], check=True, timeout=60
    )
    header, found = decode_frame(back.read_bytes())
    assert header.details == {"word": "é"}
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    "damage",
    [
        lambda frame: frame[:3],
        lambda frame: frame[:-1],
        lambda frame: frame[:4] + b"[" + frame[5:],
        lambda frame: frame.replace(b'"fp32"', b'"fp99"'),
        lambda frame: frame.replace(b'"shape":[3]', b'"shape":[4]'),
        lambda frame: frame.replace(b'"shape":[3]', b'"shape":[-3]'),
    ],
)
def test_broken_frame_is_refused(damage: Any) -> None:
    frame = b"".join(encode_frame({}, {"x": np.zeros(3, np.float32)}))
    with pytest.raises(FormatMismatch, match="cannot be read"):
        decode_frame(damage(frame))


def test_integers_beyond_32_bits_are_refused_by_tfjs(package: Package) -> None:
    session = table.backend("tfjs").open(package, SessionOptions())
    try:
        inputs = NETS["pooler"].inputs(1)
        big = {**inputs, "ids": inputs["ids"] + 2**40}
        with pytest.raises(RuntimeRunError, match="does not fit 32 bits"):
            session.run(big)
        # And it goes on.
        assert session.run(inputs)["total"].dtype == np.int64
    finally:
        session.close()


def test_process_that_dies_is_told_in_words(package: Package) -> None:
    session = table.backend("tfjs").open(package, SessionOptions())
    assert isinstance(session, NodeSession)
    try:
        assert session._process is not None
        os.kill(session._process._process.pid, signal.SIGKILL)
        with pytest.raises(RuntimeRunError, match=r"Node\.js ended with exit code -9"):
            session.run(NETS["pooler"].inputs(1))
    finally:
        session.close()


def test_process_ends_with_its_session(package: Package) -> None:
    session = table.backend("tfjs").open(package, SessionOptions())
    assert isinstance(session, NodeSession)
    assert session._process is not None
    process = session._process._process
    assert process.poll() is None
    session.close()
    assert process.poll() is not None


def _changed(package: Package, tmp_path: Path, name: str, content: bytes) -> Package:
    """A copy of a package with one file replaced, and a manifest that says so."""
    place = tmp_path / package.id
    place.mkdir()
    for file in package.entry.files:
        relative = Path(file.path).relative_to(package.id)
        (place / relative).parent.mkdir(exist_ok=True)
        os.link(package.root / file.path, place / relative)
    (place / name).unlink()
    (place / name).write_bytes(content)
    entry = msgspec.structs.replace(package.entry, files=describe_tree(tmp_path, place, "index.html"))
    return Package(tmp_path, entry, package.signature)


def test_model_that_is_none_is_refused(package: Package, tmp_path: Path) -> None:
    broken = _changed(package, tmp_path, "model.json", b'{"modelTopology": {}, "weightsManifest": []}')
    with pytest.raises(RuntimeLoadError, match=r"tfjs .* cannot open package") as caught:
        table.backend("tfjs").open(broken, SessionOptions())
    assert caught.value.hint


@pytest.mark.parametrize("name", ["../secret.bin", "/etc/hostname"])
def test_files_elsewhere_are_not_opened(package: Package, tmp_path: Path, name: str) -> None:
    config = msgspec.json.decode((package.folder / "page.json").read_bytes(), type=PageConfig)
    content = msgspec.json.encode(msgspec.structs.replace(config, external=(name,)))
    with pytest.raises(RuntimeLoadError, match="no file beside it"):
        table.backend("tfjs").open(_changed(package, tmp_path, "page.json", content), SessionOptions())


def test_weights_that_the_package_does_not_list_are_not_read(package: Package, tmp_path: Path) -> None:
    text = (package.folder / "model.json").read_bytes().replace(b"group1-shard1of1.bin", b"../../stolen.bin")
    (tmp_path / "stolen.bin").write_bytes(b"\0" * 4096)
    with pytest.raises(RuntimeLoadError, match="none of the files of the model"):
        table.backend("tfjs").open(_changed(package, tmp_path, "model.json", text), SessionOptions())


def test_page_of_another_runtime_is_refused(package: Package) -> None:
    with pytest.raises(FormatMismatch, match="is for tfjs"):
        table.backend("ort-web").read_signature("web", package.main_file)
