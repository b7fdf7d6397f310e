"""MediaPipe task files built here: small networks, converted by Runoff, with TFLite metadata written around them.

Needs mediapipe, whose schemas write the metadata; import it only where that is installed.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import msgspec
import numpy as np
import torch
from mediapipe.tasks.metadata import metadata_schema_py_generated as about
from mediapipe.tasks.metadata import schema_py_generated as schema
from torch import nn

from fakes.packages import file_package
from fakes.tiny_nets import Features
from runoff.child import Child
from runoff.export.isolated import plain
from runoff.export.step import StepOptions
from runoff.types import DType, Signature, TensorSpec

LABELS = ("ant", "bee", "cat", "dog")
VOCABULARY = ("<PAD>", "<START>", "<UNKNOWN>", "fine", "awful", "day")
SIZE = 5


class Scores(Features):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.softmax(super().forward(image), -1)


class Masks(Features):
    """image: fp32[1, 5, 5, 3] -> fp32[1, 5, 5, 8]."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.convolution(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), -1)


class Words(nn.Module):
    """ids: int32[1, 6] -> fp32[1, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(len(VOCABULARY), 8)
        self.head = nn.Linear(8, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.head(self.table(ids).mean(1)), -1)


class Sound(nn.Module):
    """samples: fp32[1, 160] -> fp32[1, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(160, len(LABELS))

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.head(samples), -1)


class Fixed(nn.Module):
    """Answers what it was made with, and depends on its image too little to show: what a trained detector would say."""

    def __init__(self, *answers: torch.Tensor) -> None:
        super().__init__()
        self.count = len(answers)
        for place, answer in enumerate(answers):
            self.register_buffer(f"answer{place}", answer)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        trace = image.mean() * 1e-9
        return tuple(getattr(self, f"answer{place}") + trace for place in range(self.count))


def network(child: Child, folder: Path, module: nn.Module, *shape: int, dtype: DType = DType.FP32) -> bytes:
    """A module with one input as a .tflite file, made by Runoff's own exporter in its worker."""
    example = torch.zeros(shape, dtype=torch.int32 if dtype is DType.INT32 else torch.float32)
    program = torch.export.export(module.eval(), (example,))
    folder.mkdir(parents=True)
    torch.export.save(program, folder / "model.pt2")
    with torch.no_grad():
        answers = module(example)
    answers = answers if isinstance(answers, tuple) else (answers,)
    outputs = tuple(TensorSpec(f"out{i}", DType.FP32, tuple(answer.shape)) for i, answer in enumerate(answers))
    signature = Signature((TensorSpec("given", dtype, shape),), outputs)
    source = file_package(folder / "model.pt2", signature, backend="torch", format_id="torch-export")
    made = folder / "litert"
    made.mkdir()
    options = msgspec.to_builtins(StepOptions(batch=1))
    target = "runoff.export.litert:from_torch_export"
    child.call("export", 240.0, package=plain(source), target=target, destination=str(made), options=options)
    return (made / "model.tflite").read_bytes()


def with_metadata(model: bytes, graph: Any, files: dict[str, str] | None = None) -> bytes:
    """The file with the metadata of its graph in it, and the files that those name in a zip archive behind it."""
    whole = about.ModelMetadataT()
    whole.name = "built in a test"
    whole.subgraphMetadata = [graph]
    made = schema.ModelT.InitFromPackedBuf(model)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(_packed(whole, b"M001"), np.uint8)
    made.buffers.append(buffer)
    entry.name, entry.buffer = b"TFLITE_METADATA", len(made.buffers) - 1
    made.metadata = [*(made.metadata or ()), entry]
    body = io.BytesIO()
    body.write(_packed(made, b"TFL3"))
    if files:
        with zipfile.ZipFile(body, "a") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
    return body.getvalue()


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A .task archive."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", compression) as whole:
        for name, content in members.items():
            whole.writestr(name, content)
    return body.getvalue()


def image_graph(outputs: Sequence[Any], mean: float = 127.5, std: float = 127.5) -> Any:
    """The metadata of a graph that takes an RGB image as (pixel - mean) / std."""
    given = tensor("image", about.ContentProperties.ImageProperties, about.ImagePropertiesT())
    given.content.contentProperties.colorSpace = about.ColorSpaceType.RGB
    options = about.NormalizationOptionsT()
    options.mean, options.std = [mean], [std]
    given.processUnits = [_unit(about.ProcessUnitOptions.NormalizationOptions, options)]
    return _graph(given, outputs)


def text_graph(outputs: Sequence[Any]) -> Any:
    """The metadata of a graph that takes the ids of words."""
    given = tensor("ids")
    options = about.RegexTokenizerOptionsT()
    options.delimRegexPattern = r"[^\w]+"
    options.vocabFile = [_file("vocab.txt", about.AssociatedFileType.VOCABULARY)]
    given.processUnits = [_unit(about.ProcessUnitOptions.RegexTokenizerOptions, options)]
    return _graph(given, outputs)


def sound_graph(outputs: Sequence[Any], channels: int = 1) -> Any:
    """The metadata of a graph that takes sound at 16 kHz."""
    properties = about.AudioPropertiesT()
    properties.sampleRate, properties.channels = 16000, channels
    return _graph(tensor("sound", about.ContentProperties.AudioProperties, properties), outputs)


def tensor(name: str, kind: int = about.ContentProperties.FeatureProperties, properties: Any = None) -> Any:
    made, content = about.TensorMetadataT(), about.ContentT()
    content.contentPropertiesType = kind
    content.contentProperties = properties if properties is not None else about.FeaturePropertiesT()
    made.name, made.content = name, content
    return made


def labelled(name: str, kind: int = about.AssociatedFileType.TENSOR_AXIS_LABELS) -> Any:
    """An output whose places, or whose values, are named in labels.txt."""
    made = tensor(name)
    made.associatedFiles = [_file("labels.txt", kind)]
    return made


def detector_graph() -> Any:
    """The metadata of a graph that answers boxes, classes, scores and their number."""
    box = about.BoundingBoxPropertiesT()
    box.index, box.type = [1, 0, 3, 2], about.BoundingBoxType.BOUNDARIES
    box.coordinateType = about.CoordinateType.RATIO
    group = about.TensorGroupT()
    group.name, group.tensorNames = "detection_result", ["location", "category", "score"]
    location = tensor("location", about.ContentProperties.BoundingBoxProperties, box)
    category = labelled("category", about.AssociatedFileType.TENSOR_VALUE_LABELS)
    graph = image_graph([location, category, tensor("score"), tensor("number of detections")])
    graph.outputTensorGroups = [group]
    return graph


def _graph(given: Any, outputs: Sequence[Any]) -> Any:
    graph = about.SubGraphMetadataT()
    graph.inputTensorMetadata, graph.outputTensorMetadata = [given], list(outputs)
    return graph


def _unit(kind: int, options: Any) -> Any:
    unit = about.ProcessUnitT()
    unit.optionsType, unit.options = kind, options
    return unit


def _file(name: str, kind: int) -> Any:
    file = about.AssociatedFileT()
    file.name, file.type = name, kind
    return file


def _packed(table: Any, identifier: bytes) -> bytes:
    builder = flatbuffers.Builder(0)
    builder.Finish(table.Pack(builder), identifier)
    return bytes(builder.Output())
