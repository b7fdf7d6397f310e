"""Finished races made by hand: records of candidates with scripted latencies and errors, decided by the real rules."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec

from runoff.environment.describe import Environment
from runoff.environment.hardware import Cpu, Memory, OperatingSystem
from runoff.environment.libraries import LibraryFacts
from runoff.models.folder import ModelFolder
from runoff.models.manifest import Fidelity, FileEntry, Manifest, PackageEntry
from runoff.race.candidates import Candidate
from runoff.race.decide import Wish, decide, package_sha256
from runoff.race.record import SCHEMA, BatchTiming, Entrant, RaceSettings, Record, Turn
from runoff.race.run import RaceResult
from runoff.types import DType, Precision, Signature, TensorSpec

MIB = 2**20
ENVIRONMENT = Environment(
    os=OperatingSystem("Linux", "6.1.0", "x86_64"),
    python="3.11.9",
    cpu=Cpu("AMD EPYC 9B14", ("avx2", "avx512f", "avx512_vnni", "amx_bf16"), 8, 4, 4),
    memory=Memory(16 * 2**30, 12 * 2**30),
    runoff_version="0.1.0",
    libraries={
        "torch": LibraryFacts("PyTorch", "2.9.1"),
        "onnxruntime": LibraryFacts("ONNX Runtime", "1.23.0"),
        "openvino": LibraryFacts("OpenVINO", "2025.3.0"),
        "transformers": LibraryFacts("Hugging Face Transformers", None, None, "pip install 'runoff[hf]'"),
    },
    execution_providers=("CPUExecutionProvider",),
)


def package(package_id: str, backend: str, format_id: str, *, precision: Precision = Precision.FP32) -> PackageEntry:
    """A package of one file."""
    file = FileEntry(f"packages/{package_id}/model.bin", package_id.encode().hex().ljust(64, "0")[:64], 512 * 1024)
    return PackageEntry(package_id, backend, format_id, precision, (file,))


PACKAGES = (
    package("torch-fp32", "torch", "torch-export"),
    package("onnx-fp32", "onnx", "onnx"),
    package("onnx-bf16", "onnx", "onnx", precision=Precision.BF16),
    package("openvino-fp32", "openvino", "openvino"),
)


def timing(batch: int, p50_ms: float, *, seed: int = 0, rounds: int = 7) -> BatchTiming:
    """Rounds of 40 samples with a tail to the right; the median of an odd number of rounds is exactly `p50_ms`."""
    chance = random.Random(seed)
    turns = []
    for number in range(rounds):
        median = p50_ms * (1 + 0.004 * (number - rounds // 2))
        below = sorted(median * (1 - 0.03 * chance.random()) for _ in range(19))
        above = sorted(median * (1 + 0.05 * chance.expovariate(1.0)) for _ in range(19))
        turns.append(Turn(number, 400, median, (*below, median, median, *above)))
    return BatchTiming(batch, tuple(turns))


def entrant(
    entry: PackageEntry,
    variant: str = "",
    threads: int = 4,
    *,
    p50_ms: Sequence[float] = (),
    max_rel: float | None = 0.0,
    changes: dict[str, object] | None = None,
) -> Entrant:
    """An entrant timed at batches 1, 8, ... with one median each; no `max_rel` means that it was never compared."""
    suffix = f"+{variant}" if variant else ""
    made = Entrant(
        candidate=Candidate(
            f"{entry.id}{suffix}@{threads}", entry.id, entry.backend, variant, entry.precision, threads
        ),
        package_sha256=package_sha256(entry),
        size_bytes=entry.files[0].bytes,
        runs_at=entry.precision,
        facts={"threads": threads},
        fidelity=None if max_rel is None else fidelity(max_rel),
        cold_start_s=0.4 + 0.1 * len(suffix),
        load_s=0.2,
        peak_memory_bytes=(120 + 10 * len(suffix)) * MIB,
        timings=tuple(timing(batch, value, seed=batch) for batch, value in zip((1, 8, 32), p50_ms, strict=False)),
    )
    return msgspec.structs.replace(made, **(changes or {}))


def fidelity(max_rel: float, accuracy: float | None = None) -> Fidelity:
    """Figures with that largest error, as far off in the cosine as such an error usually is."""
    metric = {} if accuracy is None else {"accuracy": accuracy}
    cosine = max(0.0, 1 - max_rel**2 * 20)
    return Fidelity("torch-fp32", 64, "normal-v1 seed 0", max_rel, max_rel, 1.0, cosine, 1.0, metric)


def race(
    entrants: Sequence[Entrant],
    *,
    batches: tuple[int, ...] = (1,),
    wish: Wish | None = None,
    name: str = "digits",
    changes: dict[str, object] | None = None,
) -> RaceResult:
    """A finished race of these entrants; packages without an entrant are no part of the model."""
    raced = {found.candidate.package_id for found in entrants} | {"torch-fp32"}
    tensor = TensorSpec("image", DType.FP32, ("batch", 1, 8, 8))
    manifest = Manifest(
        schema=1,
        name=name,
        reference="torch-fp32",
        signature=Signature((tensor,), (TensorSpec("scores", DType.FP32, ("batch", 10)),)),
        packages=tuple(entry for entry in PACKAGES if entry.id in raced),
        task="image-classification",
    )
    record = Record(
        schema=SCHEMA,
        fingerprint=ENVIRONMENT.fingerprint,
        facts=ENVIRONMENT.fingerprint_facts(),
        model_sha256="ab" * 32,
        settings=RaceSettings(batches, "normal-v1 seed 0", 64),
        raced_at="2026-01-02T03:04:05+00:00",
        entrants=tuple(entrants),
    )
    record = msgspec.structs.replace(record, **(changes or {}))
    decision = decide(manifest, ENVIRONMENT, wish or Wish(), record)
    return RaceResult(ModelFolder(Path("digits"), manifest), record, decision, ENVIRONMENT, ())


CRASH = "the process of onnx-fp32@1 crashed: signal 11 (SIGSEGV)"
UNMADE = "Hugging Face Transformers is not installed: pip install 'runoff[hf]'"


def full_race() -> RaceResult:
    """Two batches; a winner in a tie, a slower reference, a bf16 outside its contract, a crash, an unmade package."""
    torch, onnx, onnx_bf16, openvino = PACKAGES
    drifted = msgspec.structs.replace(fidelity(0.31), centred_cosine=0.6)
    entrants = [
        entrant(torch, p50_ms=(1.25, 4.5)),
        entrant(torch, threads=1, p50_ms=(1.75, 9.25)),
        entrant(torch, "compile", p50_ms=(0.755, 2.75), max_rel=3e-7),
        entrant(onnx, p50_ms=(0.5, 1.875), max_rel=4e-7),
        entrant(onnx, threads=1, max_rel=None, changes={"failure": CRASH}),
        entrant(onnx_bf16, p50_ms=(0.375, 1.5), changes={"fidelity": drifted}),
        entrant(openvino, p50_ms=(0.51, 2.0), max_rel=5e-7, changes={"peak_memory_bytes": 300 * MIB}),
        entrant(
            openvino,
            "default",
            p50_ms=(0.625, 2.25),
            changes={"runs_at": Precision.BF16, "fidelity": fidelity(0.004)},
        ),
    ]
    return race(
        entrants,
        batches=(1, 8),
        changes={"unmade": {"hf-fp32": UNMADE}, "notes": ("the machine was busy",)},
    )
