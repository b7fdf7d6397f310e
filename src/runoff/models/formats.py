"""Which format a bare file or folder is in, by its name and by its content; a file that lies about itself is refused.

Reads headers only: imports no runtime, unpickles nothing, and does not prove that a runtime will open the file.

Sources of the layouts: ONNX's onnx.proto (ModelProto), the protobuf encoding guide, the safetensors header,
OpenVINO's IR XML, the archive of `torch.export.save`, and the magic numbers of FlatBuffers identifiers and GGUF.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from runoff.errors import FormatMismatch, ModelError, ModelNotFound

_HEAD_BYTES = 4096
_VARINT_BYTES = 10
_SAFETENSORS_HEADER_BYTES = 100 << 20
_NET = re.compile(rb"\A(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*\?>\s*|<!--.*?-->\s*)*<net[\s>]", re.DOTALL)
_BLOB = re.compile(rb"<data\b[^>]*?\boffset=\"(\d+)\"[^>]*?\bsize=\"(\d+)\"")


def detect_format(path: Path) -> str:
    """The format of a bare model file or folder, such as `onnx`, as packages name it.

    Raises:
        ModelNotFound: nothing is at the path, or a file that belongs beside it is missing.
        FormatMismatch: the content is not what the name says, or the name says nothing.
        ModelError: a format that no backend of this version opens, or that would have to be unpickled.
    """
    if not path.exists():
        raise ModelNotFound(f"there is no file or folder {path}")
    suffix = path.suffix.lower()
    if path.is_dir():
        if suffix == ".mlpackage":
            return _check_mlpackage(path)
        return _folder_format(path)
    check = _CHECKS.get(suffix)
    if check is None:
        raise FormatMismatch(
            f"{path} has no ending that names a model format; known: {', '.join(sorted(_CHECKS))}",
            hint="rename the file, or name a folder",
        )
    try:
        size = path.stat().st_size
        if size == 0:
            raise FormatMismatch(f"{path} is empty", hint="fetch or export the file again")
        return check(path, size)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error


def has_weights(folder: Path) -> bool:
    """Whether a Hugging Face folder holds every weights file that it names, as safetensors."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _json_object(index).get("weight_map")
        return isinstance(shards, dict) and all((folder / str(name)).is_file() for name in set(shards.values()))
    return any(folder.glob("*.safetensors"))


def _folder_format(path: Path) -> str:
    config = path / "config.json"
    if not config.is_file():
        raise FormatMismatch(
            f"{path} is no model folder: it has neither runoff.json nor a Hugging Face config.json",
            hint="name the model file itself, or package the model first",
        )
    content = _json_object(config)
    if not (content.get("model_type") or content.get("architectures")):
        raise FormatMismatch(f"{config} is no Hugging Face configuration: it has neither model_type nor architectures")
    if has_weights(path):
        return "hf"
    pickled = sorted(found.name for found in path.glob("*.bin"))
    if pickled:
        raise ModelError(
            f"{path} has its weights only as pickles ({pickled[0]}), which are never opened",
            hint="load it in Transformers and save_pretrained(folder, safe_serialization=True)",
        )
    raise ModelNotFound(f"{path} has a config.json but its .safetensors weights are not all there")


def _check_onnx(path: Path, size: int) -> str:
    with path.open("rb") as file:
        fields = _protobuf_fields(file, size)
    if fields is None or "graph" not in fields or "ir_version" not in fields:
        raise _mismatch(path, "an ONNX model", _looks_like(path) or "truncated, or not a protobuf ModelProto")
    return "onnx"


_MODEL_PROTO = {1: ("ir_version", 0), 5: ("model_version", 0), 7: ("graph", 2), 8: ("opset_import", 2)}
_SKIP_BYTES = {1: 8, 5: 4}


def _protobuf_fields(file: IO[bytes], size: int) -> set[str] | None:
    """The names of the outer ModelProto fields; None when the bytes are no such message or end too early."""
    names: set[str] = set()
    while (at := file.tell()) < size:
        key = _varint(file)
        if key is None or key >> 3 == 0:
            return None
        number, wire = key >> 3, key & 7
        if number in _MODEL_PROTO:
            name, expected = _MODEL_PROTO[number]
            if wire != expected:
                return None
            names.add(name)
        if wire == 0:
            if _varint(file) is None:
                return None
            continue
        length = _varint(file) if wire == 2 else _SKIP_BYTES.get(wire)
        if length is None or file.tell() + length > size or length > size - at:
            return None
        file.seek(length, os.SEEK_CUR)
    return names


def _varint(file: IO[bytes]) -> int | None:
    value = 0
    for position in range(_VARINT_BYTES):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << (7 * position)
        if byte[0] < 0x80:
            return value
    return None


def _zip_names(path: Path, what: str) -> list[str]:
    """The names in a zip archive below its one top folder."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.partition("/")[2] or name for name in archive.namelist()]
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        why = _looks_like(path) or "not a zip archive, or a truncated one"
        raise _mismatch(path, what, why) from error


def _check_pt2(path: Path, _: int) -> str:
    names = _zip_names(path, "a torch.export archive")
    # torch 2.8 and later write models/<name>.json; earlier ones one serialized program at the top.
    if any(re.fullmatch(r"models/[^/]+\.json|(?:.*/)?serialized_exported_program\.json", name) for name in names):
        return "torch-export"
    if any("aotinductor/" in name for name in names):
        return "aoti"
    raise _mismatch(path, "a torch.export archive", "a zip archive with neither an exported program nor compiled code")


def _check_torch_pt(path: Path, _: int) -> str:
    with path.open("rb") as file:
        if file.read(2)[:1] == b"\x80":
            raise _pickled(path)
    names = _zip_names(path, "a TorchScript archive")
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "torchscript"
    if "data.pkl" in names:
        raise _pickled(path)
    raise _mismatch(path, "a TorchScript archive", "a zip archive without code")


def _check_openvino(path: Path, size: int) -> str:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        file.seek(max(0, size - _HEAD_BYTES))
        tail = file.read()
    if not _NET.match(head):
        raise _mismatch(path, "an OpenVINO model", _looks_like(path) or "XML whose first element is not <net>")
    if not tail.rstrip().endswith(b"</net>"):
        raise _mismatch(path, "an OpenVINO model", "truncated: </net> is missing")
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise ModelNotFound(
            f"{path} has no {weights.name} beside it, which holds its weights", hint="keep the two files together"
        )
    spans = _BLOB.findall(path.read_bytes())
    needed = max((int(offset) + int(length) for offset, length in spans), default=0)
    if weights.stat().st_size < needed:
        raise FormatMismatch(
            f"{weights} is truncated: {weights.stat().st_size} bytes, {path.name} refers to {needed}",
            hint="fetch or export the two files again",
        )
    return "openvino"


def _check_ncnn(path: Path, _: int) -> str:
    with path.open("rb") as file:
        magic = file.readline(32).strip()
    if magic != b"7767517":
        raise _mismatch(path, "an ncnn network", _looks_like(path) or "its first line is not 7767517")
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise ModelNotFound(
            f"{path} has no {weights.name} beside it, which holds its weights", hint="keep the two files together"
        )
    return "ncnn"


def _check_mlpackage(path: Path) -> str:
    items = _json_object(path / "Manifest.json").get("itemInfoEntries")
    if not isinstance(items, dict) or not items:
        raise FormatMismatch(f"{path} is no Core ML package: its Manifest.json lists nothing")
    return "mlpackage"


def _check_safetensors(path: Path, size: int) -> str:
    what = "a safetensors file"
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or not 2 <= length <= min(size - 8, _SAFETENSORS_HEADER_BYTES):
            raise _mismatch(path, what, _looks_like(path) or "its header does not fit the file")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        end = max(ends, default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise _mismatch(path, what, "its header is not the JSON table of tensors") from error
    if not isinstance(end, int) or 8 + length + end != size:
        raise _mismatch(path, what, f"truncated or padded: the header describes {end} bytes of tensors")
    return "safetensors"


def _check_flatbuffer(what: str, format_id: str, identifier: bytes) -> Callable[[Path, int], str]:
    """A file whose FlatBuffers identifier is at byte 4; a trailing digit or two tell the version of the schema."""

    def check(path: Path, size: int) -> str:
        with path.open("rb") as file:
            root = int.from_bytes(file.read(4), "little")
            found = file.read(4)
        if found != identifier:
            family = identifier.rstrip(b"0123456789")
            if found.startswith(family) and found[len(family) :].isdigit():
                why = f"schema {found.decode()}, and this version reads {identifier.decode()}"
            else:
                why = _looks_like(path) or f"{identifier.decode()} is not at byte 4"
            raise _mismatch(path, f"a {what} file", why)
        if not 8 <= root <= size - 4:
            raise _mismatch(path, f"a {what} file", "truncated: its root table lies beyond its end")
        return format_id

    return check


def _magic(what: str, offset: int, magic: bytes) -> Callable[[Path, int], str]:
    def check(path: Path, _: int) -> str:
        with path.open("rb") as file:
            file.seek(offset)
            found = file.read(len(magic))
        if found != magic:
            raise _mismatch(path, f"a {what} file", _looks_like(path) or f"{magic!r} is not at byte {offset}")
        raise _no_backend(path, what)

    return check


def _check_vmfb(path: Path, _: int) -> str:
    if "module.fb" not in _zip_names(path, "an IREE module"):
        raise _mismatch(path, "an IREE module", "a zip archive without module.fb")
    return "iree"


_ZIP = b"PK\x03\x04"


def _check_task(path: Path, size: int) -> str:
    """A MediaPipe task: one network, or a zip archive of networks."""
    with path.open("rb") as file:
        head = file.read(len(_ZIP))
    if head != _ZIP:
        return _check_flatbuffer("MediaPipe task", "mediapipe", b"TFL3")(path, size)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise _mismatch(path, "a MediaPipe task", "a zip archive that is truncated or damaged") from error
    if not any(name.endswith(".tflite") for name in names):
        raise _mismatch(path, "a MediaPipe task", "a zip archive without a .tflite file at its top")
    return "mediapipe"


def _check_engine(path: Path, _: int) -> str:
    """Only what is plainly something else is refused: TensorRT does not document how its files begin."""
    other = _looks_like(path)
    if other:
        raise _mismatch(path, "a TensorRT engine", other)
    return "trt"


def _check_pickle(path: Path, _: int) -> str:
    raise _pickled(path)


_CHECKS: dict[str, Callable[[Path, int], str]] = {
    ".onnx": _check_onnx,
    ".pt2": _check_pt2,
    ".xml": _check_openvino,
    ".safetensors": _check_safetensors,
    ".param": _check_ncnn,
    ".pt": _check_torch_pt,
    ".pth": _check_torch_pt,
    ".tflite": _check_flatbuffer("LiteRT", "litert", b"TFL3"),
    ".task": _check_task,
    ".vmfb": _check_vmfb,
    ".pte": _check_flatbuffer("ExecuTorch", "executorch", b"ET12"),
    ".gguf": _magic("GGUF", 0, b"GGUF"),
    ".engine": _check_engine,
    ".plan": _check_engine,
    ".pkl": _check_pickle,
    ".bin": _check_pickle,
}


SUFFIXES = frozenset({*_CHECKS, ".mlpackage"} - {".bin", ".pkl"})
"""The endings by which the main file or folder of a bare model is told from what lies beside it."""


def _looks_like(path: Path) -> str | None:
    """What the first bytes are, where they are something well known."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    start = head.lstrip()[:64].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; the file itself was not fetched"
    known = ((b"PK\x03\x04", "a zip archive"), (b"GGUF", "a GGUF file"), (b"\x1f\x8b", "a gzip archive"))
    for magic, name in known:
        if head.startswith(magic):
            return name
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "text"
    return None


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatMismatch(f"{path} is not JSON: {error}") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    if not isinstance(content, dict):
        raise FormatMismatch(f"{path} is not a JSON object")
    return content


def _mismatch(path: Path, what: str, why: str) -> FormatMismatch:
    return FormatMismatch(f"{path} is not {what}, as its name says: {why}", hint="fetch or export the file again")


def _no_backend(path: Path, what: str) -> ModelError:
    return ModelError(
        f"{path} is in the format of {what}, and no backend of this version opens it",
        hint="use the model's ONNX, OpenVINO, torch.export or Hugging Face form",
    )


def _pickled(path: Path) -> ModelError:
    return ModelError(
        f"{path} is a pickled checkpoint, which is never opened: unpickling runs code",
        hint="save the weights as .safetensors, or the module with torch.export.save as .pt2",
    )
