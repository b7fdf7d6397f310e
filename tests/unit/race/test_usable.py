"""Packages that are bound to an environment: an engine is a candidate that says why it cannot run here."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fakes import race_facts
from fakes.engines import engine_folder, gpu_machine
from fakes.model_files import make_folder
from runoff.race.decide import Decision, decide
from runoff.race.make import make_packages
from runoff.race.options import RaceOptions, silent
from runoff.race.usable import is_bound, unusable
from runoff.race.wish import Wish
from runoff.types import Device, Precision

CUDA = Wish(device=Device("cuda"))
REBUILD = "build it again here from onnx-fp32: runoff export MODEL --to trt --precision fp16 --force"


def _why(decision: Decision, candidate_id: str) -> tuple[str, str | None]:
    return next((each.reason, each.hint) for each in decision.rejections if each.candidate_id == candidate_id)


def test_engine_is_chosen_where_it_fits(tmp_path: Path) -> None:
    folder = engine_folder(tmp_path / "m")
    chosen = decide(folder.manifest, gpu_machine(), CUDA, None).require()
    assert (chosen.id, chosen.backend) == ("trt-fp16#cuda", "trt")


def test_engine_that_does_not_fit_is_rejected_with_the_offer_to_rebuild(
    tmp_path: Path,
) -> None:
    folder = engine_folder(tmp_path / "m")
    decision = decide(folder.manifest, gpu_machine(tensorrt="10.9.0", capability="9.0"), CUDA, None)
    assert _why(decision, "trt-fp16#cuda") == (
        "built with TensorRT 10.3.0, here it is 10.9.0; built for compute capability 8.9, here it is 9.0",
        REBUILD,
    )
    assert decision.require().package_id == "onnx-fp32"


def test_engine_on_the_cpu_is_rejected(tmp_path: Path) -> None:
    folder = engine_folder(tmp_path / "m")
    decision = decide(folder.manifest, gpu_machine(), Wish(), None)
    assert _why(decision, "trt-fp16") == ("TensorRT does not run on cpu", "it runs on cuda")


def test_engine_without_the_library_is_rejected(tmp_path: Path) -> None:
    folder = engine_folder(tmp_path / "m")
    decision = decide(folder.manifest, gpu_machine(tensorrt=None), CUDA, None)
    assert _why(decision, "trt-fp16#cuda") == ("TensorRT is not installed", "pip install 'runoff[trt10]'")


def test_only_packages_that_are_bound_to_an_environment_are_looked_at(tmp_path: Path) -> None:
    plain, folder = make_folder(tmp_path / "plain"), engine_folder(tmp_path / "m")
    assert not is_bound(plain.manifest)
    assert is_bound(folder.manifest)
    assert unusable(folder.manifest, gpu_machine()) == {}
    assert unusable(folder.manifest, gpu_machine(tensorrt=None, capability="7.5")) == {
        "trt-fp16": (
            "TensorRT is not installed; built for compute capability 8.9, here it is 7.5",
            REBUILD,
        )
    }


def test_race_says_why_it_makes_no_engine(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    options = RaceOptions(backends=("trt",), precisions=(Precision.FP32,))

    def unmade(machine: object) -> dict[str, str]:
        return make_packages(folder, machine, options, silent)[1]  # type: ignore[arg-type]

    missing = gpu_machine(tensorrt=None)
    assert unmade(missing) == {"trt-fp32": "TensorRT is not installed: pip install 'runoff[trt10]'"}
    assert unmade(gpu_machine()) == {"trt-fp32": "TensorRT does not run on cpu; it runs on cuda"}
    library = msgspec.structs.replace(missing.libraries["tensorrt"], problem="needs an NVIDIA GPU, and none was found")
    machine = race_facts.environment()
    without_gpu = msgspec.structs.replace(machine, libraries={**machine.libraries, "tensorrt": library})
    assert unmade(without_gpu) == {"trt-fp32": "TensorRT needs an NVIDIA GPU, and none was found"}
