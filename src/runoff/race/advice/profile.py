"""A model as advice sees it: its shape, size, weights and data, and what it is in already. Runs no runtime."""

from __future__ import annotations

import msgspec

from runoff.export.plan import Available
from runoff.export.weights import Weights, count_weights
from runoff.models.dimensions import batch_dimension, named_dimensions
from runoff.models.folder import ModelFolder
from runoff.models.manifest import Batch
from runoff.race.advice.rules import Kind
from runoff.types import Signature

_COUNTED = ("torch-export", "safetensors", "hf", "onnx")
"""The formats whose weights can be counted, the cheapest to read first."""


_HALF = 0.5


class Profile(msgspec.Struct, frozen=True):
    """What decides about a model.

    Attributes:
        packages: what it is in already, the reference first.
        size_bytes: of the reference.
        weights: where they lie; None where no package tells.
        batch: of the reference.
        open_dimensions: dynamic dimensions other than the batch.
        has_data: whether the folder holds evaluation data with labels.
    """

    name: str
    reference: str
    packages: tuple[Available, ...]
    signature: Signature
    size_bytes: int
    batch: Batch
    weights: Weights | None = None
    open_dimensions: tuple[str, ...] = ()
    has_data: bool = False

    @property
    def kind(self) -> Kind | None:
        """Where at least half of the weights lie; None where that is not known."""
        share = self.weights.linear_share if self.weights else None
        if share is None:
            return None
        return "linear" if share >= _HALF else "convolution"

    @property
    def takes_any_batch(self) -> bool:
        """Whether the batch is open, so that formats with a fixed one need a size to be made for."""
        return self.batch == "dynamic" and batch_dimension(self.signature) is not None


def profile_of(folder: ModelFolder) -> Profile:
    """Look at a model folder; starts a process where only an ONNX file tells of the weights."""
    manifest, reference = folder.manifest, folder.reference
    ordered = sorted(folder.packages, key=lambda package: package.id != reference.id)
    packages = tuple(Available(each.id, each.entry.format, each.entry.precision) for each in ordered)
    batch = batch_dimension(manifest.signature)
    counted = sorted(
        (each for each in ordered if each.entry.format in _COUNTED), key=lambda p: _COUNTED.index(p.entry.format)
    )
    found = (count_weights(package) for package in counted)
    return Profile(
        name=manifest.name,
        reference=reference.id,
        packages=packages,
        signature=manifest.signature,
        size_bytes=sum(file.bytes for file in reference.entry.files),
        batch=reference.entry.batch,
        weights=next((weights for weights in found if weights is not None), None),
        open_dimensions=tuple(name for name in named_dimensions(manifest.signature) if name != batch),
        has_data=manifest.evaluation is not None,
    )
