"""Where the weights of a model lie: in convolutions or in linear layers. Reads headers only, and no weight.

Knows the formats by their files: safetensors and `torch.export` archives name the shape of every weight; an ONNX
graph is read in an isolated process, where `onnx` is installed. By shape alone a matrix is a linear layer, and what has
more dimensions a convolution; tables that rows are taken from are left out where their name says so.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from runoff import settings
from runoff.errors import RunoffError
from runoff.export.isolated import plain, worker
from runoff.models.folder import Package

_MAX_HEADER_BYTES = 64 * 2**20
_ARCHIVE_CONFIG = "/data/weights/model_weights_config.json"
_TABLE = "embed"


class Weights(msgspec.Struct, frozen=True):
    """How many weights lie in linear layers and in convolutions."""

    linear: int
    convolution: int

    @property
    def linear_share(self) -> float | None:
        """The share of linear layers; None where there are neither."""
        total = self.linear + self.convolution
        return self.linear / total if total else None


class _Size(msgspec.Struct):
    as_int: int


class _TensorMeta(msgspec.Struct):
    sizes: list[_Size]


class _Weight(msgspec.Struct):
    tensor_meta: _TensorMeta


class _WeightsConfig(msgspec.Struct):
    config: dict[str, _Weight]


class _Tensor(msgspec.Struct):
    shape: list[int]


def count_weights(package: Package) -> Weights | None:
    """Count a package's weights; None where the format does not tell, or its file cannot be read.

    Args:
        package: of the format `torch-export`, `safetensors`, `hf` or `onnx`.
    """
    try:
        package.verify()
        if package.entry.format == "torch-export":
            return _by_shape(_archive_shapes(package.main_file))
        if package.entry.format in ("safetensors", "hf"):
            names = [file.path for file in package.entry.files if file.path.endswith(".safetensors")]
            return _by_shape([pair for name in names for pair in _header_shapes(package.root / name)])
        if package.entry.format == "onnx":
            return _of_graph(package)
    except (OSError, ValueError, msgspec.DecodeError, zipfile.BadZipFile, RunoffError):
        # Advice goes on without this fact; whoever opens the file says what is wrong with it.
        return None
    return None


def _of_graph(package: Package) -> Weights:
    with worker() as child:
        return msgspec.convert(child.call("weights", settings.worker_timeout_s(), package=plain(package)), Weights)


def _archive_shapes(path: Path) -> Iterable[tuple[str, list[int]]]:
    with zipfile.ZipFile(path) as archive:
        found = next((info for info in archive.infolist() if info.filename.endswith(_ARCHIVE_CONFIG)), None)
        if found is None or found.file_size > _MAX_HEADER_BYTES:
            raise ValueError(f"{path.name} has no list of weights, or one that is too long")
        config = msgspec.json.decode(archive.read(found), type=_WeightsConfig).config
    return [(name, [size.as_int for size in weight.tensor_meta.sizes]) for name, weight in config.items()]


def _header_shapes(path: Path) -> Iterable[tuple[str, list[int]]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            raise ValueError(f"the header of {path.name} has {length} bytes")
        header = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
    header.pop("__metadata__", None)
    return [(name, msgspec.json.decode(raw, type=_Tensor).shape) for name, raw in header.items()]


def _by_shape(shapes: Iterable[tuple[str, list[int]]]) -> Weights:
    linear = convolution = 0
    for name, shape in shapes:
        if len(shape) == 2 and _TABLE not in name.lower():
            linear += math.prod(shape)
        elif len(shape) > 2:
            convolution += math.prod(shape)
    return Weights(linear, convolution)
