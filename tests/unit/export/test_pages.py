"""Pages for browsers: made from the digits, checked in Node.js and in Chromium, and refused where they are wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fakes.javascript import browser, javascript_cache, node
from meta.repository import ROOT
from runoff.backends.node import PageConfig, decode_frame, encode_frame
from runoff.environment.javascript import WEB, pinned_version
from runoff.errors import ExportError
from runoff.export import pages, web
from runoff.export.browser import run_in_browser
from runoff.export.pages import LIMITS, check_page, largest_error
from runoff.export.run import ExportOptions, export_package
from runoff.export.step import StepOptions
from runoff.models.arrays import read_npz
from runoff.models.folder import ModelFolder, Package, copy_folder, read_folder
from runoff.race.fidelity import LEVELS
from runoff.race.options import RaceOptions
from runoff.race.wanted import list_wanted
from runoff.tasks.classification import ImageClassification
from runoff.tasks.image import ImageInput, ImagePreprocess
from runoff.types import DType, Precision, TensorSpec

TIMEOUT_S = 120.0


@pytest.fixture(scope="module", autouse=True)
def cache() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNOFF_CACHE", str(javascript_cache("ort-web")))
        yield


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    folder = copy_folder(read_folder(ROOT / "examples" / "digits"), tmp_path_factory.mktemp("web") / "digits")
    return export_package(folder, "web", Precision.FP32)


@pytest.fixture
def page(digits: ModelFolder) -> Package:
    return digits.package("ort-web-fp32")


def _copy(package: Package, tmp_path: Path) -> Path:
    place = tmp_path / "page"
    shutil.copytree(package.folder, place, copy_function=os.link)
    return place


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def test_limits_are_those_of_the_fidelity_levels() -> None:
    levels = {Precision.FP32: "exact", Precision.FP16: "close", Precision.INT8: "bounded"}
    assert {precision: LEVELS[level].max_rel for precision, level in levels.items()} == LIMITS


def test_package_says_where_it_was_checked(page: Package) -> None:
    made_by = page.entry.made_by
    assert made_by is not None
    checked = made_by.details["checked"]
    version = pinned_version("ort-web", "onnxruntime-web")
    assert made_by.versions == {"onnxruntime-web": version}
    assert checked["node"].startswith("Node.js ")
    assert f"onnxruntime-web {version}: largest error" in checked["node"]
    assert "Chromium" in checked["browser"]


def test_folder_has_all_that_the_page_loads(page: Package) -> None:
    names = {Path(file.path).relative_to("packages/ort-web-fp32").as_posix() for file in page.entry.files}
    assert page.main_file.name == "index.html"
    assert {"model.onnx", "page.json", "golden.bin", "runtime/ort-wasm-simd-threaded.wasm"} <= names
    texts = [path.read_text() for path in page.folder.iterdir() if path.suffix in (".html", ".css", ".js")]
    assert not any("http://" in text or "https://" in text for text in texts)


def test_page_computes_in_chromium_what_the_reference_does(page: Package, digits: ModelFolder) -> None:
    golden = digits.manifest.golden
    assert golden is not None
    found = run_in_browser(browser(), page.folder, "wasm", TIMEOUT_S)
    assert largest_error(found.outputs, read_npz(digits.file(golden.outputs))) < 1e-5
    assert found.browser.split()[0] in ("Chromium", "Google")


def test_page_computes_on_webgpu_where_chromium_has_an_adapter(page: Package, digits: ModelFolder) -> None:
    golden = digits.manifest.golden
    assert golden is not None
    flags = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--use-vulkan=swiftshader")
    try:
        found = run_in_browser(browser(), page.folder, "webgpu", TIMEOUT_S, (*flags, "--enable-features=Vulkan"))
    except ExportError as error:
        if "adapter" in error.message or "webgpu" in error.message.lower():
            pytest.skip(f"no WebGPU, not even in software: {error.message}")
        raise
    assert largest_error(found.outputs, read_npz(digits.file(golden.outputs))) < 1e-5


def test_page_that_fails_tells_why(page: Package, tmp_path: Path) -> None:
    place = _copy(page, tmp_path)
    _replace(place / "model.onnx", b"no model")
    with pytest.raises(ExportError, match=r"the page failed in .*protobuf"):
        run_in_browser(browser(), place, "wasm", TIMEOUT_S)


def test_page_that_never_answers_is_given_up(page: Package, tmp_path: Path) -> None:
    place = _copy(page, tmp_path)
    _replace(place / "page.js", b"")
    with pytest.raises(ExportError, match=r"no answer in .* within 3 s"):
        run_in_browser(browser(), place, "wasm", 3.0)


def test_model_that_computes_something_else_is_refused(page: Package, tmp_path: Path) -> None:
    place = _copy(page, tmp_path)
    _, tensors = decode_frame((place / "golden.bin").read_bytes())
    inputs = {"image": tensors["inputs/image"]}
    off = {"logits": tensors["outputs/logits"] + np.float32(0.01)}
    with pytest.raises(ExportError, match=r"in Node\.js .* the largest error of an output is"):
        check_page(place, page, StepOptions(), (inputs, off))


def test_missing_browser_is_said(page: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "node").symlink_to(node())
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    _, tensors = decode_frame((page.folder / "golden.bin").read_bytes())
    sample = ({"image": tensors["inputs/image"]}, {"logits": tensors["outputs/logits"]})
    checked = check_page(page.folder, page, StepOptions(), sample)
    assert checked["browser"] == "not checked in a browser here: no Chromium on PATH"
    assert "largest error" in checked["node"]


def test_export_is_refused_when_offline_and_nothing_was_fetched(
    digits: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path))
    monkeypatch.setenv("RUNOFF_OFFLINE", "1")
    lines: list[str] = []
    with pytest.raises(ExportError, match="RUNOFF_OFFLINE"):
        export_package(digits, "web", Precision.FP32, ExportOptions(force=True, on_step=lines.append))
    assert lines == ["fetching the JavaScript packages of ort-web with npm, once, into the cache"]


def test_model_too_large_for_a_browser_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_MAX_FILE_BYTES", 10)
    digits = read_folder(ROOT / "examples" / "digits")
    with pytest.raises(ExportError, match="a browser holds less than 2 GiB"):
        web.from_onnx(digits.package("onnx-fp32"), tmp_path, StepOptions())


@pytest.mark.parametrize(("inf", "expected"), [(np.inf, np.inf), (1.0, 1.0)])
def test_largest_error_counts_infinities_of_one_side_only(inf: float, expected: float) -> None:
    right = {"y": np.array([1.0, np.inf, np.nan], np.float32)}
    assert largest_error({"y": np.array([1.0, np.inf, np.nan], np.float32)}, right) == 0
    assert largest_error({"y": np.array([1.0 + inf, np.inf, np.nan], np.float32)}, right) == expected


def test_sample_lies_beside_the_page_as_the_golden_pair(page: Package, digits: ModelFolder) -> None:
    golden = digits.manifest.golden
    assert golden is not None
    _, tensors = decode_frame((page.folder / "golden.bin").read_bytes())
    np.testing.assert_array_equal(tensors["inputs/image"], read_npz(digits.file(golden.inputs))["image"])
    config = msgspec.json.decode((page.folder / "page.json").read_bytes(), type=PageConfig)
    assert config.labels == tuple("0123456789")
    assert config.task == ImageClassification.id


def test_sample_of_a_fixed_batch_has_that_many_rows(digits: ModelFolder) -> None:
    source = digits.package("onnx-fp32")
    signature = msgspec.structs.replace(
        source.signature, inputs=tuple(TensorSpec(s.name, s.dtype, (3, *s.shape[1:])) for s in source.signature.inputs)
    )
    inputs, outputs = pages.make_sample(source, signature, digits)
    assert (len(inputs["image"]), len(outputs["logits"])) == (3, 3)


_PREPROCESS = [
    {"size": [8, 8], "color": "gray", "invert": True},
    {"size": [10, 14], "color": "rgb", "resize": "letterbox", "pad": 114},
    {"size": [12, 12], "color": "bgr", "resize": "center-crop", "crop_share": 0.875, "mean": [0.5, 0.4, 0.3]},
    {"size": [40, 30], "color": "rgb", "layout": "NHWC", "std": [0.2, 0.3, 0.4]},
]


@pytest.mark.parametrize("options", _PREPROCESS, ids=lambda options: options.get("resize", options["color"]))
def test_images_become_the_tensor_that_python_makes_of_them(options: dict[str, object], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (23, 31, 3), np.uint8)
    preprocess = msgspec.convert(options, ImagePreprocess)
    spec = TensorSpec("image", DType.FP32, ("batch", *preprocess.shape))
    wanted = ImageInput(spec, preprocess).prepare(pixels)
    script = (
        f"import {{ pixelsTensor }} from '{(WEB / 'page' / 'image.js').as_uri()}';"
        f"import {{ decodeFrame, encodeFrame }} from '{(WEB / 'page' / 'tensors.js').as_uri()}';"
        "import { readFileSync, writeFileSync } from 'node:fs';"
        "const { header, tensors } = decodeFrame(readFileSync(process.argv[1]));"
        "const { data, shape } = tensors.pixels;"
        "const image = { data: new Uint8ClampedArray(data), height: shape[0], width: shape[1] };"
        "const tensor = pixelsTensor(image, { shape: ['batch'] }, header.options);"
        "writeFileSync(process.argv[2], encodeFrame({}, { tensor }));"
    )
    opaque = np.concatenate([pixels, np.full((23, 31, 1), 255, np.uint8)], axis=2)
    (tmp_path / "in").write_bytes(b"".join(encode_frame({"options": options}, {"pixels": opaque})))
    command = [
        node(),
        "--no-warnings",
        "--input-type=module",
        "-e",
        script,
        str(tmp_path / "in"),
        str(tmp_path / "out"),
    ]
    subprocess.run(command, check=True, timeout=60)
    found = decode_frame((tmp_path / "out").read_bytes())[1]["tensor"]
    assert found.shape == wanted.shape
    # OpenCV rounds in steps of 1/2048 while it resizes, so a pixel may differ by one level, here and there.
    level = 1 / 255 / min(preprocess.std)
    assert np.abs(found - wanted).max() <= 1.01 * level
    assert np.abs(found - wanted).mean() <= 0.1 * level


def test_race_makes_pages_only_where_they_are_named() -> None:
    digits = read_folder(ROOT / "examples" / "digits")

    def made(**options: tuple[str, ...]) -> set[str]:
        return {wanted.package_id for wanted in list_wanted(digits, RaceOptions(**options))}

    assert not made() & {"ort-web-fp32", "tfjs-fp32"}
    assert made(backends=("ort-web",)) == {"ort-web-fp32"}
    assert made(candidates=("tfjs-fp32", "onnx-fp32")) == {"tfjs-fp32"}


def test_page_json_is_plain_json(page: Package) -> None:
    config = json.loads((page.folder / "page.json").read_bytes())
    assert config["model_bytes"] == (page.folder / "model.onnx").stat().st_size
