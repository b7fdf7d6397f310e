"""What a race makes beforehand; nothing is converted here, as the libraries that it takes are said to be missing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from fakes import race_facts
from fakes.model_files import make_folder, package_of
from runoff.models.folder import ModelFolder, add_package, update_package
from runoff.models.staging import staging
from runoff.race.make import make_packages
from runoff.race.options import RaceOptions, silent
from runoff.race.wanted import list_forms, list_wanted, name_batches
from runoff.race.wanted import package_of as named_package
from runoff.types import Precision


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


def test_packages_of_named_candidates_are_made_at_any_batch(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    names = ("torch-aoti-fp32@2", "litert-int8-b8+x", "litert-fp32-b8", "torch-fp32+compile", "nothing-fp32")
    options = RaceOptions(batches=(8,), backends=("litert",), candidates=names)
    unmade = make_packages(folder, msgspec.structs.replace(race_facts.environment(), libraries={}), options, silent)[1]
    made = [name for name in unmade if name != "torch-fp32"]
    assert made == ["torch-aoti-fp32", "litert-fp32-b8", "litert-int8-b8"]


def test_name_without_a_batch_stands_for_those_of_the_race_when_packages_are_made_for_one_each(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    names = ("litert-int8@2", "litert-int8-static", "onnx-int8-static@1", "executorch-fp32+x@1", "litert-fp32-b4")
    named = name_batches(folder, RaceOptions(batches=(1, 8), candidates=names)).candidates
    assert named == (
        *("litert-int8-b1@2", "litert-int8-b8@2", "litert-int8-static-b1", "litert-int8-static-b8"),
        *("onnx-int8-static@1", "executorch-fp32-b1+x@1", "executorch-fp32-b8+x@1", "litert-fp32-b4"),
    )


def test_quantised_forms_are_listed_for_each_batch_where_their_format_takes_one(tmp_path: Path) -> None:
    options = RaceOptions(batches=(1, 8), precisions=(Precision.INT8,), backends=("litert", "onnx"))
    listed = [(form.id, batch) for form, batch in list_forms(make_folder(tmp_path / "m"), options)]
    assert listed == [
        *(("onnx-int8-static", None), ("onnx-int8-dynamic", None)),
        *(("litert-int8-static", 1), ("litert-int8-static", 8), ("litert-int8", 1), ("litert-int8", 8)),
    ]


def test_backend_of_another_platform_says_where_it_runs(tmp_path: Path) -> None:
    options = RaceOptions(backends=("coreml",))
    unmade = make_packages(make_folder(tmp_path / "m"), race_facts.environment(), options, silent)[1]
    expected = "Core ML is not installed" if sys.platform == "darwin" else "Core ML runs on macOS only"
    assert unmade == {"coreml-fp32": expected}


def test_opt_in_backend_is_made_for_only_when_it_or_a_package_of_it_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    named = (RaceOptions(), RaceOptions(backends=("iree",)), RaceOptions(candidates=("iree-fp32@1",)))
    made = [{wanted.package_id for wanted in list_wanted(folder, options)} for options in named]
    assert ["iree-fp32" in ids for ids in made] == [False, True, True]


def test_package_of_a_candidate_keeps_its_batch() -> None:
    assert named_package("litert-fp32-b8+default@4") == "litert-fp32-b8"


def test_only_packages_of_named_candidates_are_made(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    options = RaceOptions(candidates=("litert-fp32-b1@1",))
    assert list(make_packages(folder, race_facts.environment(), options, silent)[1]) == ["litert-fp32-b1"]
