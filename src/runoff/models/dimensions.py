"""The named dimensions of a signature: which one is the batch, and the signature with some of them fixed.

Pure: knows no arrays, no files and no runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from runoff.types import Signature, TensorSpec

if TYPE_CHECKING:
    from runoff.models.manifest import Batch, PackageEntry

SIZES = "sizes"
"""The key of a package's `requires` that holds the sizes of named dimensions that its files were made for."""


def batch_dimension(signature: Signature) -> str | None:
    """The name of the batch dimension: the one called `batch`, else a named first axis of the first input."""
    if any("batch" in spec.shape for spec in signature.inputs):
        return "batch"
    shape = signature.inputs[0].shape if signature.inputs else ()
    return shape[0] if shape and isinstance(shape[0], str) else None


def named_dimensions(signature: Signature) -> tuple[str, ...]:
    """The names of the inputs' dynamic dimensions, in order, each once."""
    return tuple(dict.fromkeys(dim for spec in signature.inputs for dim in spec.shape if isinstance(dim, str)))


def with_sizes(signature: Signature, sizes: Mapping[str, int]) -> Signature:
    """The signature with these named dimensions fixed; other ones stay as they are."""
    if not sizes:
        return signature

    def fix(spec: TensorSpec) -> TensorSpec:
        shape = tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.shape)
        return TensorSpec(spec.name, spec.dtype, shape)

    return Signature(tuple(map(fix, signature.inputs)), tuple(map(fix, signature.outputs)))


def with_batch(signature: Signature, batch: Batch) -> Signature:
    """The signature with the batch dimension fixed, or as it is when the batch is dynamic."""
    name = batch_dimension(signature)
    return signature if batch == "dynamic" or name is None else with_sizes(signature, {name: batch})


def fixed_sizes(entry: PackageEntry) -> dict[str, int]:
    """The named dimensions other than the batch that a package was made for one size of."""
    sizes = entry.requires.get(SIZES)
    if not isinstance(sizes, dict):
        return {}
    return {str(name): size for name, size in sizes.items() if isinstance(size, int)}


def signature_of(entry: PackageEntry, signature: Signature) -> Signature:
    """What a package takes and answers: the model's signature with what its files fix."""
    return with_sizes(with_batch(signature, entry.batch), fixed_sizes(entry))
