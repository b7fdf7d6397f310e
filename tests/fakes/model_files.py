"""Model files and folders that are right on the outside and open in no runtime: bytes for tests of files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runoff.models.folder import FileEntry, ModelFolder, create_folder, describe_file
from runoff.models.manifest import Manifest, PackageEntry
from runoff.types import DType, Precision, Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", DType.FP32, ("batch", 3)),),
    (TensorSpec("y", DType.FP32, ("batch", 2)),),
)


def make_folder(root: Path, content: bytes = b"reference weights", *, labels: bool = True) -> ModelFolder:
    """A model folder with one package, `onnx-fp32`, and labels."""

    def fill(aside: Path) -> Manifest:
        main = aside / "packages" / "onnx-fp32" / "model.onnx"
        main.parent.mkdir(parents=True)
        main.write_bytes(content)
        (aside / "labels.txt").write_bytes(b"a\nb\n")
        package = PackageEntry(
            "onnx-fp32", "onnx", "onnx", Precision.FP32, (describe_file(aside, "packages/onnx-fp32/model.onnx"),)
        )
        described = describe_file(aside, "labels.txt") if labels else None
        return Manifest(1, "tiny", "onnx-fp32", SIGNATURE, (package,), task="classification", labels=described)

    return create_folder(root, fill)


def package_of(package_id: str, files: dict[str, bytes], staged: Path) -> PackageEntry:
    """Write files into a staged folder and describe them as a package."""
    for name, content in files.items():
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / name).write_bytes(content)
    entries = tuple(FileEntry(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items())
    return PackageEntry(package_id, "onnx", "onnx", Precision.FP32, entries)


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def onnx_bytes(graph: bytes = b"\x0a\x00" * 200) -> bytes:
    """The outer fields of an ONNX ModelProto around any graph."""
    return _varint(1 << 3) + _varint(10) + _field(2, b"maker") + _field(7, graph) + _field(8, b"\x10\x14")


def safetensors_bytes(values: bytes = b"\0" * 16) -> bytes:
    """One fp32 tensor in the safetensors layout."""
    table = {"w": {"dtype": "F32", "shape": [len(values) // 4], "data_offsets": [0, len(values)]}}
    header = json.dumps(table).encode()
    return len(header).to_bytes(8, "little") + header + values


def zip_bytes(files: dict[str, bytes]) -> bytes:
    """A zip archive of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def pt2_bytes() -> bytes:
    """The marker files of a torch.export archive."""
    return zip_bytes({"m/archive_format": b"pt2", "m/models/model.json": b"{}", "m/data/weights/w": b"\0" * 64})


def openvino_files(weight_bytes: int = 8) -> tuple[bytes, bytes]:
    """An OpenVINO .xml and the .bin that it refers to."""
    xml = f'<?xml version="1.0"?>\n<net name="m" version="11"><data offset="0" size="{weight_bytes}"/></net>\n'
    return xml.encode(), b"\0" * weight_bytes


def make_hf_folder(root: Path) -> Path:
    """A Hugging Face folder with one safetensors file."""
    root.mkdir(parents=True)
    (root / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    (root / "model.safetensors").write_bytes(safetensors_bytes())
    return root


@contextmanager
def unwritable(root: Path) -> Iterator[None]:
    """Make a folder unwritable for this process, whoever runs it; skips the test where nothing does that."""
    root.chmod(0o555)
    immutable = False
    try:
        if os.access(root, os.W_OK):
            # Permission bits do not stop root; the immutable flag of ext4, xfs and btrfs does.
            done = subprocess.run(["chattr", "+i", str(root)], capture_output=True, check=False)
            immutable = done.returncode == 0
            if not immutable:
                pytest.skip("this user can write everywhere and the file system has no immutable flag")
        yield
    finally:
        if immutable:
            subprocess.run(["chattr", "-i", str(root)], check=True)
        root.chmod(0o755)
