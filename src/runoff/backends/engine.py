"""What a TensorRT engine was built for, and whether this machine is that: its note, its requirements, its profiles.

Pure: imports no runtime and probes nothing. `trt.py` opens engines, `export/trt.py` builds them, and a decision asks
`why_not` before either. The rules of what runs where are those of TensorRT's page on engine compatibility.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from runoff.environment.describe import Environment
from runoff.errors import FormatMismatch, InputError, RuntimeLoadError
from runoff.models.dimensions import batch_dimension, named_dimensions, with_batch
from runoff.models.manifest import Batch, Manifest, PackageEntry
from runoff.models.samples import DEFAULT_SIZE, DEFAULT_SIZES
from runoff.types import DType, Precision, Signature, TensorSpec

_NOTE_LIMIT_BYTES = 1 << 20
_ACROSS_MAJORS = {(8, 10), (10, 11)}
"""Version-compatible engines run on later versions of their major, and from the first of these on the second."""
_AMPERE = (8, 0)
_TYPICAL_BATCH, _LARGEST_BATCH = 8, 32
_ROOM = 16
"""A dimension that nobody gave a size may grow to so many times its usual one."""
_DTYPES = {
    "FLOAT": DType.FP32,
    "HALF": DType.FP16,
    "BF16": DType.BF16,
    "INT64": DType.INT64,
    "INT32": DType.INT32,
    "INT8": DType.INT8,
    "UINT8": DType.UINT8,
    "BOOL": DType.BOOL,
}
"""Members of `tensorrt.DataType` that an array can hold; TensorRT 8 has neither INT64 nor BF16."""


class EngineNote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What Runoff writes beside an engine, which does not say it itself.

    Attributes:
        requires: as the manifest's; see `unmet`.
    """

    signature: Signature
    precision: Precision
    requires: dict[str, Any]


class Here(msgspec.Struct, frozen=True):
    """What an engine's requirements are held against; None where it is not known.

    Attributes:
        platform: such as `linux-x86_64`.
        cuda: version of the CUDA runtime that is installed.
        driver_cuda: the newest CUDA that the driver supports.
        capabilities: the compute capabilities of the GPUs, such as `8.9`.
    """

    platform: str
    tensorrt: str | None = None
    cuda: str | None = None
    driver_cuda: str | None = None
    capabilities: tuple[str, ...] = ()


class Profile(msgspec.Struct, frozen=True):
    """One optimisation profile: for each input the smallest, the usual and the largest shape."""

    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]

    def holds(self, shapes: Mapping[str, Sequence[int]]) -> bool:
        """Whether every input lies within its range."""
        return all(
            len(low) == len(shapes[name]) and all(a <= n <= b for a, n, b in zip(low, shapes[name], high, strict=True))
            for name, (low, _, high) in self.shapes.items()
        )

    def __str__(self) -> str:
        return ", ".join(f"{name} {_range(low, high)}" for name, (low, _, high) in self.shapes.items())


def note_path(engine: Path) -> Path:
    """Where the note of an engine lies."""
    return engine.with_suffix(".json")


def read_note(engine: Path) -> EngineNote | None:
    """The note beside an engine; None where there is none.

    Raises:
        FormatMismatch: it is no such note, or much too large for one.
    """
    path = note_path(engine)
    if not path.is_file():
        return None
    if path.stat().st_size > _NOTE_LIMIT_BYTES:
        raise FormatMismatch(f"{path} is too large for what Runoff writes beside an engine")
    try:
        return msgspec.json.decode(path.read_bytes(), type=EngineNote)
    except (OSError, msgspec.DecodeError) as error:
        raise FormatMismatch(
            f"{path} does not say what {engine.name} was built for: {error}",
            hint="build the engine with runoff export MODEL --to trt",
        ) from error


def stored_precision(engine: Path) -> Precision:
    """The precision that the note tells; fp32 where there is none."""
    note = read_note(engine)
    return note.precision if note else Precision.FP32


def facts_of(environment: Environment) -> Here:
    """The facts of an environment that decide about engines."""
    library = environment.libraries.get("tensorrt")
    return Here(
        platform=f"{environment.os.name.lower()}-{environment.os.arch}",
        tensorrt=library.version if library else None,
        cuda=environment.cuda_toolkit_version,
        driver_cuda=environment.cuda_version,
        capabilities=tuple(gpu.compute_capability for gpu in environment.gpus),
    )


def unmet(requires: Mapping[str, Any], here: Here) -> list[str]:
    """What an engine was built for and this machine is not, a sentence for each; a fact that is not known is no reason.

    Args:
        requires: `platform`, `tensorrt`, `cuda`, `compute_capability`; `version_compatible: true` and
            `hardware_compatible: "ampere+"` for engines that were built so.
        here: this machine.
    """
    found = []
    platform, tensorrt, cuda, capability = (
        str(requires[name]) if name in requires else None
        for name in ("platform", "tensorrt", "cuda", "compute_capability")
    )
    if platform and platform != here.platform:
        found.append(f"built for {platform}, this is {here.platform}")
    if tensorrt and here.tensorrt and not _runs_on(tensorrt, here.tensorrt, requires.get("version_compatible") is True):
        found.append(f"built with TensorRT {tensorrt}, here it is {here.tensorrt}")
    if cuda and here.cuda and _numbers(cuda)[:1] != _numbers(here.cuda)[:1]:
        found.append(f"built for CUDA {cuda}, here it is {here.cuda}")
    elif cuda and here.driver_cuda and _numbers(cuda)[:1] > _numbers(here.driver_cuda)[:1]:
        found.append(f"built for CUDA {cuda}, the driver here supports {here.driver_cuda}")
    if capability and not _has_capability(capability, here.capabilities, requires.get("hardware_compatible")):
        found.append(
            f"built for compute capability {capability}, "
            + (f"here it is {' and '.join(here.capabilities)}" if here.capabilities else "and there is no NVIDIA GPU")
        )
    return found


def why_not(entry: PackageEntry, environment: Environment, manifest: Manifest) -> tuple[str, str | None] | None:
    """Why an engine cannot run in an environment and what would change that; None when nothing speaks against it."""
    found = unmet(entry.requires, facts_of(environment))
    return ("; ".join(found), rebuild_offer(entry, manifest)) if found else None


def rebuild_offer(entry: PackageEntry, manifest: Manifest) -> str:
    """How to build an engine again: from the model's ONNX package where it has one, else from what it has."""
    precision = "" if entry.precision is Precision.FP32 else f" --precision {entry.precision}"
    command = f"runoff export MODEL --to trt{precision} --force"
    others = [other for other in manifest.packages if other.format != entry.format]
    graph = next((other for other in others if other.format == "onnx"), None)
    if graph is not None:
        return f"build it again here from {graph.id}: {command}"
    if others:
        return f"build it again here: {command}"
    return "the folder holds nothing else: build it again from the model's ONNX form"


def plan_profiles(signature: Signature, batch: Batch, sizes: Mapping[str, int]) -> tuple[Profile, ...]:
    """The profiles to build with; none for a signature without dynamic dimensions.

    A dynamic batch gets two: one for single rows, which is fastest at them, and one for 1 to 32 rows, tuned at 8.
    Another dimension runs from 1 to the size that was asked for, else to 16 times its usual one, tuned at either.
    """
    fixed = with_batch(signature, batch)
    names = named_dimensions(fixed)
    if not names:
        return ()
    usual = {**DEFAULT_SIZES, **sizes}
    ranges = {}
    for name in names:
        typical = usual.get(name, DEFAULT_SIZE)
        ranges[name] = (1, typical, typical if name in sizes else typical * _ROOM)
    rows = batch_dimension(fixed)
    if rows is None or rows not in names:
        return (_profile(fixed, ranges),)
    return tuple(
        _profile(fixed, {**ranges, rows: batches}) for batches in ((1, 1, 1), (1, _TYPICAL_BATCH, _LARGEST_BATCH))
    )


def choose_profile(profiles: Sequence[Profile], shapes: Mapping[str, Sequence[int]]) -> int:
    """The first profile that holds the shapes.

    Raises:
        InputError: none does; the message has the ranges of each.
    """
    for index, profile in enumerate(profiles):
        if profile.holds(shapes):
            return index
    given = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    ranges = "; or ".join(str(profile) for profile in profiles)
    raise InputError(
        f"{given} is outside the shapes that the engine was built for: {ranges}",
        hint="run fewer rows at a time, or build an engine for this size: runoff export MODEL --to trt --batch N",
    )


def engine_dtype(spec: TensorSpec, name: str, package_id: str) -> DType:
    """The dtype that an engine holds a tensor in.

    Args:
        spec: what the signature says of it.
        name: the member of `tensorrt.DataType`.
        package_id: for the error.

    Raises:
        RuntimeLoadError: numbers of the signature's dtype do not fit into it.
    """
    own = _DTYPES.get(name)
    if own is not None and (own is spec.dtype or (spec.dtype, own) == (DType.INT64, DType.INT32)):
        return own
    raise RuntimeLoadError(
        f"cannot open package {package_id!r}: its engine has {spec.name!r} as {name}, the signature as {spec.dtype}",
        hint="build the engine again from the model's ONNX package",
    )


def bare_dtype(tensor: str, name: str) -> DType:
    """The dtype of a bare engine's tensor.

    Raises:
        FormatMismatch: no array can hold it.
    """
    if name not in _DTYPES:
        raise FormatMismatch(f"{tensor!r} is a TensorRT {name}, which no array can hold")
    return _DTYPES[name]


def _profile(signature: Signature, ranges: Mapping[str, tuple[int, int, int]]) -> Profile:
    """The profile in which each named dimension has its range."""

    def shape(spec: TensorSpec, which: int) -> tuple[int, ...]:
        return tuple(ranges[dim][which] if isinstance(dim, str) else dim for dim in spec.shape)

    return Profile({spec.name: (shape(spec, 0), shape(spec, 1), shape(spec, 2)) for spec in signature.inputs})


def _range(low: Sequence[int], high: Sequence[int]) -> str:
    return f"[{', '.join(str(a) if a == b else f'{a}..{b}' for a, b in zip(low, high, strict=True))}]"


def _runs_on(built: str, found: str, version_compatible: bool) -> bool:
    old, new = _numbers(built), _numbers(found)
    if not version_compatible:
        return all(a == b for a, b in zip(old, new, strict=False))
    return new >= old and (old[:1] == new[:1] or (old[0], new[0]) in _ACROSS_MAJORS)


def _has_capability(wanted: str, found: Sequence[str], compatible: Any) -> bool:
    if compatible == "ampere+":
        return any(_numbers(each) >= _AMPERE for each in found)
    return wanted in found


def _numbers(version: str) -> tuple[int, ...]:
    """`(10, 3, 0)` of `10.3.0.post1`."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition(".post")[0]))
