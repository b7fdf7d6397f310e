"""What a race makes beforehand; nothing is converted here, as the libraries that it takes are said to be missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from fakes import race_facts
from fakes.model_files import make_folder, package_of
from runoff.models.folder import ModelFolder, add_package, update_package
from runoff.models.staging import staging
from runoff.race.make import make_packages
from runoff.race.options import RaceOptions, silent


def _unmade(folder: ModelFolder, *batches: int) -> Mapping[str, str]:
    options = RaceOptions(batches=batches, backends=("litert", "executorch"))
    return make_packages(folder, race_facts.environment(), options, silent)[1]


def _with_package(folder: ModelFolder, package_id: str, batch: int) -> ModelFolder:
    with staging(folder.root) as staged:
        entry = package_of(package_id, {"model.tflite": b"x"}, staged)
        changed = msgspec.structs.replace(entry, backend="litert", format="litert", batch=batch)
        return add_package(folder.root, changed, staged)


def test_static_backends_get_a_package_for_each_batch(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    assert list(_unmade(folder, 1, 8)) == [
        f"{backend}-fp32-b{batch}" for backend in ("litert", "executorch") for batch in (1, 8)
    ]


def test_only_missing_batches_are_made(tmp_path: Path) -> None:
    folder = _with_package(make_folder(tmp_path / "m"), "litert-fp32-b1", 1)
    assert [name for name in _unmade(folder, 1, 8) if name.startswith("litert")] == ["litert-fp32-b8"]


def test_batch_of_the_reference_is_the_only_one_when_it_is_fixed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    folder = update_package(folder.root, msgspec.structs.replace(folder.reference.entry, batch=4))
    assert list(_unmade(folder, 1, 8)) == ["litert-fp32", "executorch-fp32"]


def test_only_packages_of_named_candidates_are_made(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    options = RaceOptions(candidates=("litert-fp32-b1@1",))
    assert list(make_packages(folder, race_facts.environment(), options, silent)[1]) == ["litert-fp32-b1"]
