"""Facts of a race made up as data: environments, packages, entrants and records that no machine has measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from runoff.backends import table
from runoff.environment.describe import Environment
from runoff.environment.hardware import Cpu, Memory, OperatingSystem
from runoff.environment.libraries import LibraryFacts
from runoff.models.manifest import Batch, Fidelity, FileEntry, Manifest, PackageEntry
from runoff.race.candidates import Candidate, make_candidate
from runoff.race.record import SCHEMA, BatchTiming, Entrant, RaceSettings, Record, Turn, package_sha256
from runoff.types import DType, Precision, Signature, TensorSpec

MIB = 2**20
SIGNATURE = Signature(
    (TensorSpec("x", DType.FP32, ("batch", 4)),),
    (TensorSpec("y", DType.FP32, ("batch", 4)),),
)
_FORMATS = {"torch": "torch-export", "onnx": "onnx", "openvino": "openvino", "hf": "hf"}
_VERSIONS = {"torch": "2.9.1", "transformers": "5.0.0", "onnxruntime": "1.23.2", "openvino": "2025.4.0"}


def environment(*, isa: Sequence[str] = ("avx2", "fma"), **versions: str | None) -> Environment:
    """A Linux machine with every runtime but those whose version is given as None."""
    installed = {**_VERSIONS, **versions}
    libraries = {
        name: LibraryFacts(name, version, distribution=name if version else None) for name, version in installed.items()
    }
    return Environment(
        os=OperatingSystem("Linux", "6.8.0", "x86_64"),
        python="3.12.4",
        cpu=Cpu("A CPU", tuple(isa), 8, 4, 8),
        memory=Memory(32 << 30, 16 << 30),
        runoff_version="0.1.0",
        libraries=libraries,
        execution_providers=("CPUExecutionProvider",),
    )


def package(
    package_id: str, precision: str = "fp32", *, batch: Batch = "dynamic", fidelity: Fidelity | None = None
) -> PackageEntry:
    """A package whose backend is the first word of its id and whose digest is made of its id."""
    backend = package_id.partition("-")[0]
    digest = package_id.encode().hex().ljust(64, "0")[:64]
    file = FileEntry(f"packages/{package_id}/model", digest, 100 * len(package_id))
    return PackageEntry(
        package_id, backend, _FORMATS.get(backend, backend), Precision(precision), (file,), batch, fidelity=fidelity
    )


def manifest(*packages: PackageEntry, reference: str | None = None) -> Manifest:
    """A model with these packages; the first one is the reference unless told."""
    return Manifest(1, "model", reference or packages[0].id, SIGNATURE, packages)


def fidelity(
    max_rel: float = 1e-6, centred_cosine: float = 1.0, top1: float | None = None, **metric: float
) -> Fidelity:
    return Fidelity("torch-fp32", 16, "normal-v1 seed 0", max_rel, max_rel, 1.0, centred_cosine, top1, metric)


def candidate(entry: PackageEntry, variant: str = "", num_threads: int | None = 8) -> Candidate:
    row = table.row(entry.backend)
    return make_candidate(entry, row, next(v for v in row.variants if v.name == variant), num_threads)


def timing(medians_ms: Iterable[float], batch: int = 1) -> BatchTiming:
    """Turns with these medians, one a round."""
    turns = (Turn(number, 5, median, (median,)) for number, median in enumerate(medians_ms))
    return BatchTiming(batch, tuple(turns))


def entrant(
    entry: PackageEntry, *timings: BatchTiming, variant: str = "", num_threads: int | None = 8, **facts: Any
) -> Entrant:
    """An entrant that was checked and found right, with these timings; `facts` replace fields."""
    defaults: dict[str, Any] = {
        "runs_at": entry.precision,
        "fidelity": fidelity(),
        "cold_start_s": 0.5,
        "load_s": 0.25,
        "peak_memory_bytes": 100 * MIB,
        "timings": timings,
    }
    size = sum(file.bytes for file in entry.files)
    return Entrant(candidate(entry, variant, num_threads), package_sha256(entry), size, **{**defaults, **facts})


def record(*entrants: Entrant, of: Environment | None = None, batches: tuple[int, ...] = (1,), **fields: Any) -> Record:
    """A finished race under the fingerprint of an environment."""
    machine = of or environment()
    found = Record(
        schema=SCHEMA,
        fingerprint=machine.fingerprint,
        facts=machine.fingerprint_facts(),
        model_sha256="0" * 64,
        settings=RaceSettings(batches, "normal-v1 seed 0", 16),
        raced_at="2026-03-01T12:00:00+00:00",
        entrants=entrants,
    )
    return msgspec.structs.replace(found, **fields)
