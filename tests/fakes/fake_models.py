"""Model folders whose packages the fake plug-in backend opens: they race in processes of their own within a second."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from runoff.models.arrays import write_npz
from runoff.models.folder import ModelFolder, create_folder, describe_file
from runoff.models.manifest import Golden, Manifest, PackageEntry
from runoff.race.options import RaceOptions
from runoff.types import DType, Precision, Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", DType.FP32, ("batch", 4)),),
    (TensorSpec("y", DType.FP32, ("batch", 4)),),
)
QUICK = RaceOptions(rounds=2, max_rounds=2, turn_s=0.0, min_runs=2, warmup_s=0.1, num_threads=(1,), backends=("fake",))
"""A race that takes no longer than starting its processes."""


def make_fake_model(
    root: Path, packages: Mapping[str, Mapping[str, Any]], *, reference: str | None = None, golden: bool = False
) -> ModelFolder:
    """A model folder with a fake package for each behaviour; see `plugin_backend.Behaviour`.

    Args:
        root: where to make it.
        packages: behaviours by package id; `precision` and `batch` in one are the entry's. The first is the reference.
        reference: another package to be the reference.
        golden: with a golden pair, as a package that multiplies by one would answer it.
    """

    def fill(aside: Path) -> Manifest:
        entries = tuple(_write_package(aside, name, dict(behaviour)) for name, behaviour in packages.items())
        pair = _write_golden(aside) if golden else None
        return Manifest(1, root.name, reference or entries[0].id, SIGNATURE, entries, golden=pair)

    return create_folder(root, fill)


def _write_package(aside: Path, package_id: str, behaviour: dict[str, Any]) -> PackageEntry:
    precision, batch = Precision(behaviour.pop("precision", "fp32")), behaviour.pop("batch", "dynamic")
    path = aside / "packages" / package_id / "model.json"
    path.parent.mkdir(parents=True)
    # The id makes each file one of its own kind, so that a record can tell them apart.
    path.write_bytes(msgspec.json.encode(behaviour) + b" " * len(package_id))
    file = describe_file(aside, path.relative_to(aside).as_posix())
    return PackageEntry(package_id, "fake", "fake", precision, (file,), batch)


def _write_golden(aside: Path) -> Golden:
    (aside / "golden").mkdir()
    arrays = np.random.default_rng(0).standard_normal((3, 4), np.float32)
    write_npz(aside / "golden" / "inputs.npz", {"x": arrays})
    write_npz(aside / "golden" / "outputs.npz", {"y": arrays})
    return Golden(describe_file(aside, "golden/inputs.npz"), describe_file(aside, "golden/outputs.npz"))
