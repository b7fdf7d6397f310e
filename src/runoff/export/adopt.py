"""A bare model becomes a model folder: `.onnx`, `.xml` with its `.bin`, `.task`, a Hugging Face folder, ....

Knows no runtime: an isolated process reads the signature and computes the golden pair. Files are hard-linked
where the file system can. The same content leads to the same folder, and to no work the second time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from runoff import settings
from runoff.backends import table
from runoff.child import RemoteError
from runoff.environment.libraries import is_importable
from runoff.errors import (
    BackendNotInstalled,
    ChildFailed,
    FormatMismatch,
    InputError,
    ModelError,
    ModelNotFound,
    RunoffError,
    RuntimeLoadError,
)
from runoff.export.hf_task import find_task
from runoff.export.isolated import plain, worker
from runoff.models.cache import adopted_folder, link_or_copy, make_once, subfolder
from runoff.models.configuration import sizes_within, token_limits
from runoff.models.folder import ModelFolder, Package, create_folder, describe_file, read_folder
from runoff.models.formats import detect_format
from runoff.models.manifest import (
    MANIFEST_NAME,
    SCHEMA,
    Batch,
    FileEntry,
    Golden,
    MadeBy,
    Manifest,
    PackageEntry,
    check_path,
)
from runoff.models.samples import batch_dimension, describe_samples
from runoff.models.staging import name_aside, remove, write_atomically
from runoff.types import Precision, Signature

GOLDEN_ROWS = 4
GOLDEN_SEED = 0
_SCHEME = "adopted-3"
"""Part of every digest: raise it when the same files would give another folder."""
_PLACE = "packages/source"
_OTHER_WEIGHTS = re.compile(r".*\.(?:bin|h5|msgpack|ot|onnx|onnx_data|tflite|gguf|pt|pth|ckpt|mlmodel)")
_READ_AS = {("litert", "mediapipe"): "mediapipe"}
"""A format and the backend asked for first, and what the file is then: a network with metadata is also a task."""
_HF_PRECISIONS = {"float16": Precision.FP16, "bfloat16": Precision.BF16}


class _Stamp(msgspec.Struct, frozen=True):
    """Size and modification time of a file when it was hashed: unchanged means not hashed again."""

    path: str
    size_bytes: int
    modified_ns: int
    sha256: str


def adopt(
    path: Path, *, name: str | None = None, into: Path | None = None, backends: Sequence[str] = ()
) -> ModelFolder:
    """Make a model folder of a bare model; a model folder is answered as it is.

    Args:
        path: a file or a Hugging Face folder.
        name: the model's name; the file's or folder's name unless given.
        into: where the model folder is made; in the user cache unless given.
        backends: the ids of those asked for; they decide where one file is of two formats.

    Raises:
        ModelNotFound, FormatMismatch: nothing is there, or it is not what its name says.
        ModelError: no backend can open it, or `into` holds something else.
        RuntimeLoadError: the runtime refuses the file, or crashed or hung on it.
    """
    if (path / MANIFEST_NAME).is_file():
        return read_folder(path)
    format_id = detect_format(path)
    format_id = _READ_AS.get((format_id, backends[0]), format_id) if backends else format_id
    if format_id == "safetensors":
        raise ModelError(
            f"{path} holds weights without a network", hint="runoff.package(module, inputs, folder) takes an nn.Module"
        )
    digests = _digests(path, format_id)
    places = {_place(path, relative): relative for relative in digests}
    identity = json.dumps([_SCHEME, format_id, name, [(place, digests[places[place]]) for place in sorted(places)]])
    root = into or adopted_folder(hashlib.sha256(identity.encode()).hexdigest())

    def fill(aside: Path) -> Manifest:
        sources = {place: _base(path) / relative for place, relative in places.items()}
        return _fill(aside, format_id, sources, name or path.resolve().stem)

    if into is None:
        _discard_if_changed(root)
        return make_once(root, fill)
    if (into / MANIFEST_NAME).is_file():
        there = read_folder(into)
        if sorted(file.sha256 for file in there.reference.entry.files) == sorted(digests.values()):
            return there
    return create_folder(into, fill)


def _place(path: Path, relative: str) -> str:
    """What a file is called in the package: the main file has one name, so that the same content is the same model."""
    if path.is_dir():
        # Core ML tells its packages by the ending of their folder.
        return f"model.mlpackage/{relative}" if path.suffix == ".mlpackage" else relative
    beside = {".xml": ".bin", ".param": ".bin", ".engine": ".json", ".plan": ".json"}.get(path.suffix.lower())
    main = {path.name, path.with_suffix(beside).name} if beside else {path.name}
    return f"model{Path(relative).suffix}" if relative in main else relative


def _discard_if_changed(root: Path) -> None:
    """Delete an adopted folder whose files were rewritten in place: a hard link shares their content."""
    try:
        adopted_ns = (root / MANIFEST_NAME).stat().st_mtime_ns
        package = read_folder(root).reference
        if all((root / file.path).stat().st_mtime_ns <= adopted_ns for file in package.entry.files):
            return
        package.verify()
    except (OSError, ModelError):
        if root.exists():
            aside = name_aside(root.parent)
            with suppress(OSError):
                root.replace(aside)
            remove(aside)


def _base(path: Path) -> Path:
    """The folder that the files of a bare model are relative to."""
    return path if path.is_dir() else path.parent


def _files(path: Path, format_id: str) -> Iterator[str]:
    """The files of a bare model relative to its folder, the main one first."""
    if path.is_dir():
        main = "Manifest.json" if format_id == "mlpackage" else "config.json"
        yield main
        for found in sorted(path.rglob("*")):
            relative = found.relative_to(path)
            name = relative.as_posix()
            hidden = any(part.startswith(".") for part in relative.parts)
            belongs = format_id == "mlpackage" or not _OTHER_WEIGHTS.fullmatch(name)
            if found.is_file() and not hidden and name != main and belongs:
                yield name
        return
    yield path.name
    if format_id in ("openvino", "ncnn"):
        yield path.with_suffix(".bin").name
    if format_id in ("ncnn", "iree") and (path.parent / "signature.json").is_file():
        yield "signature.json"
    if format_id == "trt" and path.with_suffix(".json").is_file():
        yield path.with_suffix(".json").name
    if format_id == "onnx":
        for name in _external_files(path):
            check_path(name, str(path))
            yield name


def _external_files(path: Path) -> list[str]:
    """The weights files beside an .onnx file: as it names them, or by their usual names where onnx is missing."""
    if is_importable("onnx"):
        answer = _call("external_files", path=str(path))
        return [str(name) for name in answer["files"]]
    usual = (f"{path.name}.data", f"{path.name}_data", f"{path.stem}.data", f"{path.stem}.weights")
    return [name for name in usual if (path.parent / name).is_file()]


def _digests(path: Path, format_id: str) -> dict[str, str]:
    """SHA-256 of each file; a file of the same size and modification time as last time is not read again."""
    base = _base(path)
    place = subfolder("stamps") / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    known = {stamp.path: stamp for stamp in _read_stamps(place)}
    try:
        if path.is_file() and known and all(_is_current(base, stamp) for stamp in known.values()):
            return {stamp.path: stamp.sha256 for stamp in known.values()}
        stamps = [_stamp(base, name, known.get(name)) for name in _files(path, format_id)]
    except OSError as error:
        raise ModelError(f"cannot read {error.filename or path}: {error.strerror}") from error
    if list(known.values()) != stamps:
        write_atomically(place, msgspec.json.encode(stamps))
    return {stamp.path: stamp.sha256 for stamp in stamps}


def _stamp(base: Path, name: str, old: _Stamp | None) -> _Stamp:
    if old is not None and _is_current(base, old):
        return old
    # Resolved, because the files of a hub snapshot are links into a folder of blobs.
    real = (base / name).resolve()
    facts = real.stat()
    return _Stamp(name, facts.st_size, facts.st_mtime_ns, describe_file(real.parent, real.name).sha256)


def _is_current(base: Path, stamp: _Stamp) -> bool:
    try:
        facts = (base / stamp.path).stat()
    except FileNotFoundError:
        return False
    return (facts.st_size, facts.st_mtime_ns) == (stamp.size_bytes, stamp.modified_ns)


def _read_stamps(place: Path) -> list[_Stamp]:
    try:
        return msgspec.json.decode(place.read_bytes(), type=list[_Stamp])
    except (OSError, msgspec.DecodeError):
        return []


def _fill(aside: Path, format_id: str, sources: dict[str, Path], name: str) -> Manifest:
    """Link the files into an empty folder, let a worker read them, and describe them."""
    backend = _backend(format_id)
    config = _config(sources["config.json"]) if format_id == "hf" else {}
    precision = _HF_PRECISIONS.get(str(config.get("dtype") or config.get("torch_dtype")), Precision.FP32)
    for place, source in sources.items():
        target = aside / _PLACE / place
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(source, target)
    entries = tuple(describe_file(aside, f"{_PLACE}/{place}") for place in sources)
    entry = PackageEntry(_package_id(backend, format_id, precision), backend, format_id, precision, entries)
    (aside / "golden").mkdir()
    golden = ("golden/inputs.npz", "golden/outputs.npz")
    answer = _call(
        "inspect",
        package=plain(Package(aside, entry, Signature((), ()))),
        limits=token_limits(config),
        sizes=sizes_within(config),
        rows=GOLDEN_ROWS,
        seed=GOLDEN_SEED,
        golden=[str(aside / path) for path in golden],
    )
    signature = msgspec.convert(answer["signature"], Signature)
    if answer["precision"] is not None:
        precision = Precision(answer["precision"])
    entry = msgspec.structs.replace(
        entry,
        id=_package_id(backend, format_id, precision),
        precision=precision,
        batch=_batch(signature),
        made_by=MadeBy("adopted", versions={"golden inputs": describe_samples(GOLDEN_SEED)}),
    )
    facts = answer["facts"]
    if format_id == "hf":
        facts = msgspec.structs.asdict(find_task(config, aside / _PLACE, _PLACE, signature))
    return Manifest(
        schema=SCHEMA,
        name=name,
        reference=entry.id,
        signature=signature,
        packages=(entry,),
        task=facts.get("task"),
        preprocess=facts.get("preprocess", {}),
        labels=_write_labels(aside, facts.get("labels", ())),
        golden=Golden(*(describe_file(aside, path) for path in golden)) if answer["golden"] else None,
    )


def _write_labels(root: Path, names: Sequence[str]) -> FileEntry | None:
    """The class names as the manifest's file of labels; None where there are none, or one of them is empty."""
    lines = [name.strip() for name in names]
    if not lines or not all(lines):
        return None
    (root / "labels.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return describe_file(root, "labels.txt")


def _backend(format_id: str) -> str:
    """The first backend of the format whose library is there."""
    rows = table.backends_for(format_id)
    for row in rows:
        if row.library is None or is_importable(row.library):
            return row.id
    extra = next((row.extra for row in rows if row.extra), None)
    raise BackendNotInstalled(
        f"no backend that opens the format {format_id!r} is installed; there are {', '.join(row.id for row in rows)}",
        hint=f"pip install 'runoff[{extra}]'" if extra else None,
    )


def _package_id(backend: str, format_id: str, precision: Precision) -> str:
    """The usual id where the format's own backend is there, else one that names the backend that stands in for it."""
    if backend == table.backends_for(format_id)[0].id:
        return table.package_id(format_id, precision)
    return f"{backend}-{precision.value}"


def _batch(signature: Signature) -> Batch:
    """`dynamic` where the batch has a name, else the size that the first input's first axis is fixed to."""
    shape = signature.inputs[0].shape
    if batch_dimension(signature) is None and shape and isinstance(shape[0], int) and shape[0] > 0:
        return shape[0]
    return "dynamic"


def _config(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(path.read_bytes())
    return config


def _call(op: str, **arguments: Any) -> dict[str, Any]:
    """Ask a worker of its own; foreign files may crash it."""
    try:
        with worker() as child:
            return child.call(op, settings.worker_timeout_s(), **arguments)
    except ChildFailed as error:
        raise RuntimeLoadError(f"the runtime {error.message} when it read the file", hint=error.hint) from error
    except RemoteError as error:
        raise _as_raised(error) from error


def _as_raised(error: RemoteError) -> RunoffError:
    """The remote error as the type that the worker raised, where a caller may act on it."""
    kinds = (BackendNotInstalled, FormatMismatch, InputError, ModelError, ModelNotFound)
    kind = {kind.__name__: kind for kind in kinds}.get(error.kind, RuntimeLoadError)
    return kind(error.message, hint=error.hint)
