"""A description says what a model is, from its manifest or its bytes."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys

import msgspec
import pytest
from rich.console import Console

from fakes.model_files import SIGNATURE, make_folder, make_hf_folder, onnx_bytes, openvino_files
from runoff.errors import FormatMismatch
from runoff.models.description import describe_model, human_bytes
from runoff.models.folder import update_package
from runoff.models.manifest import Fidelity


def _text(description) -> str:
    out = io.StringIO()
    Console(file=out, width=140).print(description)
    return out.getvalue()


def test_folder_is_described_from_its_manifest(tmp_path):
    made = make_folder(tmp_path / "m", b"x" * 2000)
    described = describe_model(made.root)
    assert (described.kind, described.name, described.task) == ("model", "tiny", "classification")
    assert described.signature == SIGNATURE
    assert described.digest == made.digest()
    assert described.labels
    assert not described.golden
    assert [(package.id, package.bytes) for package in described.packages] == [("onnx-fp32", 2000)]
    assert json.loads(json.dumps(described.to_dict()))["signature"]["inputs"][0]["shape"] == ["batch", 3]
    text = _text(described)
    assert "x: fp32[batch, 3]" in text
    assert "2.0 KiB" in text
    assert "reference" in text


def test_fidelity_is_shown_when_a_package_was_checked(tmp_path):
    made = make_folder(tmp_path / "m")
    figures = Fidelity("onnx-fp32", 8, "data", 1e-3, 2.5e-4, 1.0, 0.99991)
    update_package(made.root, msgspec.structs.replace(made.manifest.packages[0], fidelity=figures))
    text = _text(describe_model(made.root))
    assert "0.00025" in text
    assert "0.999910" in text


def test_brackets_in_names_are_shown_as_they_are(tmp_path):
    made = make_folder(tmp_path / "m")
    data = json.loads((made.root / "runoff.json").read_text())
    (made.root / "runoff.json").write_text(json.dumps({**data, "name": "[bold]x[/nope]"}))
    assert "[bold]x[/nope]" in _text(describe_model(made.root))


def test_bare_file_is_described_from_its_bytes(tmp_path):
    (tmp_path / "m.onnx").write_bytes(onnx_bytes())
    described = describe_model(tmp_path / "m.onnx", lambda format_id: {"onnx": ["onnx", "openvino"]}[format_id])
    assert (described.kind, described.format, described.opened_by) == ("file", "onnx", ("onnx", "openvino"))
    assert described.digest == hashlib.sha256(onnx_bytes()).hexdigest()
    assert described.bytes == len(onnx_bytes())
    assert described.signature is None
    assert "onnx, openvino" in _text(described)


def test_size_counts_the_weights_that_lie_beside(tmp_path):
    xml, weights = openvino_files(100)
    (tmp_path / "m.xml").write_bytes(xml)
    (tmp_path / "m.bin").write_bytes(weights)
    assert describe_model(tmp_path / "m.xml").bytes == len(xml) + 100


def test_hugging_face_folder_names_its_architecture(tmp_path):
    described = describe_model(make_hf_folder(tmp_path / "bert"))
    assert (described.kind, described.format, described.architecture) == ("hf", "hf", "BertModel")


def test_description_is_refused_when_the_file_is_not_what_its_name_says(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"text")
    with pytest.raises(FormatMismatch):
        describe_model(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes_are_written_for_people(count, text):
    assert human_bytes(count) == text


def test_describing_loads_no_runtime(tmp_path):
    make_folder(tmp_path / "m")
    (tmp_path / "m.onnx").write_bytes(onnx_bytes())
    code = """
import sys
from pathlib import Path
from runoff.models.description import describe_model
describe_model(Path(sys.argv[1]) / "m")
describe_model(Path(sys.argv[1]) / "m.onnx")
heavy = {"torch", "onnxruntime", "openvino", "transformers", "onnx", "numpy", "huggingface_hub", "rich"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
