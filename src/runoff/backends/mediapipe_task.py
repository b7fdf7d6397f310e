"""What a MediaPipe file is for, read from the TFLite metadata and the archive that it holds; nothing in it is run.

A task file is one network with metadata, or a zip archive of several. Knows no session. Sources of the layouts:
MediaPipe's `metadata_schema.fbs`, TFLite's `schema.fbs`, and the names that its graphs ask of an archive.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mediapipe.tasks.metadata import metadata_schema_py_generated as metadata_schema
from mediapipe.tasks.metadata import schema_py_generated as schema

from runoff.errors import FormatMismatch
from runoff.types import Dim, DType, Precision, Signature, TensorSpec

MAX_FILE_BYTES = 2 << 30
_MAX_LABELS_BYTES = 8 << 20
_METADATA = b"TFLITE_METADATA"
_BUNDLES = {
    ("face_detector.tflite", "face_landmarks_detector.tflite"): "face-landmarker",
    ("hand_detector.tflite", "hand_landmarks_detector.tflite"): "hand-landmarker",
}
"""The members of an archive, and the task that they make together."""
_STORED = {
    schema.TensorType.FLOAT16: Precision.FP16,
    schema.TensorType.INT8: Precision.INT8,
    schema.TensorType.UINT8: Precision.INT8,
}
_IMAGE = TensorSpec("image", DType.UINT8, ("batch", "height", "width", 3))
_FOUND = (
    TensorSpec("boxes", DType.FP32, ("batch", "detections", 4)),
    TensorSpec("scores", DType.FP32, ("batch", "detections")),
    TensorSpec("classes", DType.INT32, ("batch", "detections")),
)


@dataclass(frozen=True)
class TaskFile:
    """What a file is for.

    Attributes:
        kind: a key of `mediapipe.KINDS`, such as `image-classifier`.
        signature: see docs/runtimes.md.
        labels: class names by class id; empty where the file has none.
        content: the bytes that MediaPipe is given: the file, or the one network in its archive.
        size: height and width that the network works at, where it takes an image.
        sample_rate: Hz, for sound.
    """

    kind: str
    signature: Signature
    precision: Precision
    labels: tuple[str, ...]
    content: bytes
    size: tuple[int, int] | None = None
    sample_rate: int = 0


def read_task_file(path: Path) -> TaskFile:
    """Read what a file is for.

    Raises:
        FormatMismatch: it is damaged, has no metadata, or is for a task that this backend does not open.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise FormatMismatch(f"{path} has more than {MAX_FILE_BYTES >> 30} GiB", hint="is it a task file?")
    content = path.read_bytes()
    try:
        return _read_archive(path, content) if content.startswith(b"PK") else _read_network(path, content)
    except FormatMismatch:
        raise
    except Exception as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _read_archive(path: Path, content: bytes) -> TaskFile:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist() if info.filename.endswith(".tflite")}
        for info in members.values():
            # MediaPipe maps the members where they lie; a compressed one could also be far larger than the file.
            if info.compress_type != zipfile.ZIP_STORED:
                raise FormatMismatch(f"{path} holds {info.filename} compressed, and MediaPipe takes it stored only")
        if sum(info.file_size for info in members.values()) > len(content):
            raise _damaged(path, "its members are larger than the file")
        networks = {name: archive.read(info) for name, info in members.items()}
    if len(networks) == 1:
        return _read_network(path, next(iter(networks.values())))
    kind = next((kind for names, kind in _BUNDLES.items() if set(names) <= set(networks)), None)
    if kind is None:
        raise FormatMismatch(
            f"{path} is an archive of {', '.join(sorted(networks)) or 'no network'}, which is no task that runs here",
            hint="archives of one network, of the face landmarker and of the hand landmarker are opened",
        )
    number = 478 if kind == "face-landmarker" else 21
    found = "faces" if kind == "face-landmarker" else "hands"
    outputs = [TensorSpec("landmarks", DType.FP32, ("batch", found, number, 3))]
    if kind == "hand-landmarker":
        outputs += [TensorSpec(name, dtype, ("batch", found)) for name, dtype in _HANDEDNESS]
    stored = [_precision(_model(path, network)) for network in networks.values()]
    precision = next((one for one in stored if one is not Precision.FP32), Precision.FP32)
    labels = ("Right", "Left") if kind == "hand-landmarker" else ()
    return TaskFile(kind, Signature((_IMAGE,), tuple(outputs)), precision, labels, content)


_HANDEDNESS = (("scores", DType.FP32), ("classes", DType.INT32))


def _read_network(path: Path, content: bytes) -> TaskFile:
    model = _model(path, content)
    about = _about(path, model)
    graph = model.Subgraphs(0)
    inputs = [_shape(graph, graph.Inputs(i)) for i in range(graph.InputsLength())]
    outputs = [_shape(graph, graph.Outputs(i)) for i in range(graph.OutputsLength())]
    labels = _labels(path, content, about)
    kind = _kind(path, about, outputs, bool(labels))
    batch: tuple[Dim, ...] = ("batch",)
    size, rate = None, 0
    if kind.startswith("text"):
        given = TensorSpec("text", DType.STRING, batch)
    elif kind == "audio-classifier":
        properties = about.inputTensorMetadata[0].content.contentProperties
        rate = properties.sampleRate
        if properties.channels != 1 or rate < 1:
            raise FormatMismatch(f"{path} takes {properties.channels} channels of sound at {rate} Hz, expected one")
        given = TensorSpec("audio", DType.FP32, (*batch, "samples"))
    else:
        given, size = _IMAGE, (inputs[0][1], inputs[0][2])
    signature = Signature((given,), _answers(kind, outputs))
    return TaskFile(kind, signature, _precision(model), labels, content, size, rate)


def _answers(kind: str, outputs: list[list[int]]) -> tuple[TensorSpec, ...]:
    if kind == "object-detector":
        return _FOUND
    if kind == "face-detector":
        return (*_FOUND, TensorSpec("keypoints", DType.FP32, ("batch", "detections", 6, 2)))
    if kind == "image-segmenter":
        masks = TensorSpec("masks", DType.FP32, ("batch", "height", "width", outputs[0][-1]))
        return (masks, TensorSpec("classes", DType.UINT8, ("batch", "height", "width")))
    name = "embedding" if kind.endswith("embedder") else "scores"
    inner = ("windows",) if kind == "audio-classifier" else ()
    return tuple(
        TensorSpec(name if head == 0 else f"{name}_{head}", DType.FP32, ("batch", *inner, shape[-1]))
        for head, shape in enumerate(outputs)
    )


def _kind(path: Path, about: Any, outputs: list[list[int]], labelled: bool) -> str:
    """The task of a network: by what its input is said to hold, then by its custom metadata, labels and shapes."""
    custom = {_text(one.name) for one in about.customMetadata or ()}
    contents = [one.content for one in about.inputTensorMetadata or ()]
    holds = {one.contentPropertiesType for one in contents if one is not None}
    units = [unit for one in about.inputTensorMetadata or () for unit in one.processUnits or ()]
    tokenizers = {unit.optionsType for unit in (*units, *(about.inputProcessUnits or ()))}
    properties, options = metadata_schema.ContentProperties, metadata_schema.ProcessUnitOptions
    if tokenizers & {
        options.BertTokenizerOptions,
        options.RegexTokenizerOptions,
        options.SentencePieceTokenizerOptions,
    }:
        return "text-classifier" if labelled else "text-embedder"
    if properties.AudioProperties in holds and labelled:
        return "audio-classifier"
    if properties.ImageProperties in holds:
        if "DETECTOR_METADATA" in custom or len(outputs) == 4:
            return "object-detector"
        if len(outputs) == 2 and sorted(shape[-1] for shape in outputs) == [1, 16]:
            return "face-detector"
        if len(outputs) == 1 and len(outputs[0]) == 4 and outputs[0][1:3] != [1, 1]:
            return "image-segmenter"
        if all(len(shape) in (2, 4) for shape in outputs):
            return "image-classifier" if labelled else "image-embedder"
    raise FormatMismatch(
        f"{path} has metadata that names no task of this backend; its outputs are {outputs}",
        hint="open it as a plain network: name it .tflite, and ask for the backend litert",
    )


def _model(path: Path, content: bytes) -> Any:
    if content[4:8] != b"TFL3":
        raise _damaged(path, "TFL3 is not at byte 4")
    return schema.Model.GetRootAs(content, 0)


def _about(path: Path, model: Any) -> Any:
    """The metadata of the first graph."""
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        if entry.Name() == _METADATA:
            data = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
            graphs = metadata_schema.ModelMetadataT.InitFromPackedBuf(data).subgraphMetadata
            if graphs:
                return graphs[0]
    raise FormatMismatch(
        f"{path} has no TFLite metadata, and MediaPipe cannot know what it is for",
        hint="open it as a plain network: name it .tflite, and ask for the backend litert",
    )


def _shape(graph: Any, index: int) -> list[int]:
    return [int(size) for size in graph.Tensors(index).ShapeAsNumpy()]


def _labels(path: Path, content: bytes, about: Any) -> tuple[str, ...]:
    """The first list of labels that an output names; it lies in a zip archive behind the network."""
    kinds = (
        metadata_schema.AssociatedFileType.TENSOR_AXIS_LABELS,
        metadata_schema.AssociatedFileType.TENSOR_VALUE_LABELS,
    )
    files = [file for output in about.outputTensorMetadata or () for file in output.associatedFiles or ()]
    name = next((_text(file.name) for file in files if file.type in kinds), None)
    if name is None:
        return ()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open(name) as file:
        data = file.read(_MAX_LABELS_BYTES + 1)
    if len(data) > _MAX_LABELS_BYTES:
        raise _damaged(path, f"{name} has more than {_MAX_LABELS_BYTES} bytes")
    return tuple(data.decode().splitlines())


def _precision(model: Any) -> Precision:
    """The precision that most of the weights are stored in."""
    sizes: dict[Precision, int] = {}
    graph = model.Subgraphs(0)
    for i in range(graph.TensorsLength()):
        tensor = graph.Tensors(i)
        stored = _STORED.get(tensor.Type(), Precision.FP32)
        sizes[stored] = sizes.get(stored, 0) + model.Buffers(tensor.Buffer()).DataLength()
    return max(sizes, key=lambda kind: sizes[kind], default=Precision.FP32)


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _damaged(path: Path, why: str) -> FormatMismatch:
    return FormatMismatch(f"{path} is not a readable MediaPipe task: {why}", hint="fetch the file again")


def task_facts(path: Path) -> Mapping[str, Any]:
    """What a manifest should say of a file besides its signature: task, preprocess and labels, where they are known."""
    found = read_task_file(path)
    facts: dict[str, Any] = {"labels": list(found.labels), "precision": found.precision.value}
    if found.kind == "image-classifier" and len(found.signature.outputs) == 1 and found.size is not None:
        # MediaPipe would stretch the picture to the same size.
        facts["task"] = "image-classification"
        facts["preprocess"] = {"size": list(found.size), "scale": 1.0, "layout": "NHWC", "scores": "none"}
    return facts
