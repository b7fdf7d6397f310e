"""Formats are told by name and content together."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.model_files import make_hf_folder, onnx_bytes, openvino_files, pt2_bytes, safetensors_bytes, zip_bytes
from runoff.errors import FormatMismatch, ModelError, ModelNotFound
from runoff.models.formats import detect_format


def _write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("m.onnx", onnx_bytes(), "onnx"),
        ("M.ONNX", onnx_bytes(), "onnx"),
        ("m.pt2", pt2_bytes(), "torch-export"),
        ("m.pt2", zip_bytes({"serialized_exported_program.json": b"{}", "version": b"8"}), "torch-export"),
        ("m.safetensors", safetensors_bytes(), "safetensors"),
        ("m.safetensors", safetensors_bytes(b""), "safetensors"),
        ("m.task", zip_bytes({"face_detector.tflite": b"x"}), "mediapipe"),
        ("m.task", b"\x1c\0\0\0TFL3" + bytes(64), "mediapipe"),
        ("m.vmfb", zip_bytes({"module.fb": b"x"}), "iree"),
    ],
)
def test_format_is_detected_when_name_and_content_agree(tmp_path, name, content, expected):
    assert detect_format(_write(tmp_path, name, content)) == expected


def test_openvino_is_detected_when_the_weights_lie_beside(tmp_path):
    xml, weights = openvino_files()
    path = _write(tmp_path, "m.xml", xml)
    _write(tmp_path, "m.bin", weights)
    assert detect_format(path) == "openvino"


def test_openvino_names_the_missing_file_when_there_are_no_weights(tmp_path):
    path = _write(tmp_path, "m.xml", openvino_files()[0])
    with pytest.raises(ModelNotFound, match=r"m\.bin"):
        detect_format(path)


def test_openvino_is_refused_when_the_weights_are_truncated(tmp_path):
    xml, weights = openvino_files(64)
    path = _write(tmp_path, "m.xml", xml)
    _write(tmp_path, "m.bin", weights[:32])
    with pytest.raises(FormatMismatch, match=r"truncated: 32 bytes, m\.xml refers to 64"):
        detect_format(path)


@pytest.mark.parametrize("name", ["m.onnx", "m.pt2", "m.xml", "m.safetensors", "m.pt", "m.tflite", "m.pte", "m.gguf"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>not found</body></html>", "HTML"),
        (b"hello, this is a text and no model at all, whatever its name may say", "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345678\n", "Git LFS"),
    ],
)
def test_file_is_refused_when_its_content_is_not_what_its_name_says(tmp_path, name, content, why):
    with pytest.raises(FormatMismatch, match=why):
        detect_format(_write(tmp_path, name, content))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.onnx", onnx_bytes()),
        ("m.pt2", pt2_bytes()),
        ("m.safetensors", safetensors_bytes()),
        ("m.xml", openvino_files()[0]),
    ],
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_file_is_refused_when_it_is_truncated(tmp_path, name, content, share):
    _write(tmp_path, "m.bin", b"\0" * 8)
    with pytest.raises(FormatMismatch):
        detect_format(_write(tmp_path, name, content[: int(len(content) * share)]))


@pytest.mark.parametrize("name", ["m.onnx", "m.pt2", "m.safetensors", "m.xml"])
@given(content=st.binary(max_size=400))
def test_random_bytes_never_crash_the_sniffing(tmp_path_factory, name, content):
    path = _write(tmp_path_factory.mktemp("random"), name, content)
    with pytest.raises(ModelError):
        detect_format(path)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("m.gguf", b"GGUF\x03\0\0\0", "GGUF"),
    ],
)
def test_format_is_named_when_no_backend_opens_it_yet(tmp_path, name, content, what):
    with pytest.raises(ModelError, match=rf"format of {what}, and no backend"):
        detect_format(_write(tmp_path, name, content))


@pytest.mark.parametrize("name", ["m.engine", "m.plan"])
def test_engine_is_known_by_its_name_unless_it_is_plainly_something_else(tmp_path, name):
    assert detect_format(_write(tmp_path, name, b"ftrt\0\1")) == "trt"
    for content, why in ((b"PK\x03\x04", "a zip archive"), (b"<html>", "an HTML page"), (b"words", "text")):
        with pytest.raises(FormatMismatch, match=f"is not a TensorRT engine, as its name says: {why}"):
            detect_format(_write(tmp_path, name, content))


@pytest.mark.parametrize(
    ("name", "content", "format_id"),
    [
        ("m.tflite", b"\x1c\0\0\0TFL3" + bytes(40), "litert"),
        ("m.pte", b"\x3c\0\0\0ET12" + bytes(80), "executorch"),
    ],
)
def test_flatbuffer_is_known_by_its_identifier(tmp_path, name, content, format_id):
    assert detect_format(_write(tmp_path, name, content)) == format_id


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("m.tflite", b"\x1c\0\0\0TFL9" + bytes(40), "schema TFL9, and this version reads TFL3"),
        ("m.pte", b"\x3c\0\0\0ET99" + bytes(80), "schema ET99, and this version reads ET12"),
        ("m.pte", b"\x3c\0\0\0ET12" + bytes(20), "truncated"),
        ("m.tflite", b"\x1c\0\0\0ET12" + bytes(40), "TFL3 is not at byte 4"),
    ],
)
def test_flatbuffer_of_another_version_or_cut_short_is_refused(tmp_path, name, content, why):
    with pytest.raises(FormatMismatch, match=why):
        detect_format(_write(tmp_path, name, content))


@pytest.mark.parametrize(
    ("name", "members", "format_id"),
    [
        ("m.pt", ("m/constants.pkl", "m/data.pkl", "m/code/a.py"), "torchscript"),
        ("m.pt2", ("m/data/aotinductor/model/a.so",), "aoti"),
        ("m.pt2", ("m/models/model.json", "m/data/weights/weight_0"), "torch-export"),
    ],
)
def test_archives_of_torch_are_told_apart_by_what_is_in_them(tmp_path, name, members, format_id):
    assert detect_format(_write(tmp_path, name, zip_bytes(dict.fromkeys(members, b"x")))) == format_id


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("m.task", zip_bytes({"readme.txt": b"x"}), r"without a \.tflite file"),
        ("m.task", zip_bytes({"a.tflite": b"x"})[:-8], "truncated or damaged"),
        ("m.task", b"\x1c\0\0\0TFL3", "truncated"),
        ("m.vmfb", zip_bytes({"module.bin": b"x"}), r"without module\.fb"),
        ("m.vmfb", zip_bytes({"module.fb": b"x"})[:-8], "is not an IREE module"),
    ],
)
def test_archive_of_networks_or_code_is_refused_when_it_holds_none(tmp_path, name, content, why):
    with pytest.raises(FormatMismatch, match=why):
        detect_format(_write(tmp_path, name, content))


def test_core_ml_folder_is_known_by_its_manifest(tmp_path):
    folder = tmp_path / "m.mlpackage"
    folder.mkdir()
    (folder / "Manifest.json").write_text('{"itemInfoEntries": {}}')
    with pytest.raises(FormatMismatch, match="lists nothing"):
        detect_format(folder)
    (folder / "Manifest.json").write_text('{"itemInfoEntries": {"1": {"path": "com.apple.CoreML/model.mlmodel"}}}')
    assert detect_format(folder) == "mlpackage"


def test_ncnn_network_needs_its_magic_number_and_its_weights(tmp_path):
    with pytest.raises(FormatMismatch, match="not an ncnn network"):
        detect_format(_write(tmp_path, "m.param", b"hello"))
    network = _write(tmp_path, "m.param", b"7767517\n1 1\n")
    with pytest.raises(ModelNotFound, match=r"m\.bin"):
        detect_format(network)
    _write(tmp_path, "m.bin", b"\0")
    assert detect_format(network) == "ncnn"


@pytest.mark.parametrize(
    ("name", "content"),
    [("s.pt", zip_bytes({"s/data.pkl": b"x"})), ("s.pth", b"\x80\x02}q\0."), ("s.bin", b"\x80\x02}"), ("s.pkl", b"x")],
)
def test_pickle_is_refused_with_a_way_out(tmp_path, name, content):
    with pytest.raises(ModelError, match="pickled") as caught:
        detect_format(_write(tmp_path, name, content))
    assert "safetensors" in (caught.value.hint or "")


def test_ending_is_refused_when_it_names_no_format(tmp_path):
    with pytest.raises(FormatMismatch, match=r"known: .*\.onnx"):
        detect_format(_write(tmp_path, "m.weights", b"x"))


def test_hugging_face_folder_is_detected(tmp_path):
    assert detect_format(make_hf_folder(tmp_path / "bert")) == "hf"


def test_hugging_face_folder_is_refused_when_a_shard_is_missing(tmp_path):
    root = make_hf_folder(tmp_path / "bert")
    (root / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    with pytest.raises(ModelNotFound, match="not all there"):
        detect_format(root)


def test_hugging_face_folder_is_refused_when_its_weights_are_pickles(tmp_path):
    root = make_hf_folder(tmp_path / "bert")
    (root / "model.safetensors").rename(root / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickles"):
        detect_format(root)


@pytest.mark.parametrize("config", ["[]", "{", '{"a": 1}'])
def test_folder_is_refused_when_its_config_is_not_one_of_a_model(tmp_path, config):
    root = make_hf_folder(tmp_path / "bert")
    (root / "config.json").write_text(config)
    with pytest.raises(FormatMismatch):
        detect_format(root)


def test_folder_is_refused_when_it_holds_no_model(tmp_path):
    with pytest.raises(FormatMismatch, match=r"neither runoff\.json nor"):
        detect_format(tmp_path)


def test_missing_path_is_not_found(tmp_path):
    with pytest.raises(ModelNotFound):
        detect_format(tmp_path / "none.onnx")
