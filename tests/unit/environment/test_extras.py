"""Which extras count as installed, and which versions Runoff takes, for made-up requirements."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from runoff.environment.extras import Requirements
from runoff.environment.libraries import installed_version, own_requirements

_REQUIRES = (
    "numpy>=2.0",
    "torch>=2.6; extra == 'torch'",
    "torch>=2.6; extra == 'torch-cpu'",
    "torch>=2.6; extra == 'torch-cu126'",
    "torch>=2.9; extra == 'torch-cu130'",
    "torch>=2.6; extra == 'torch-jp6-cu126'",
    "openvino>=2025.0; extra == 'openvino'",
    "onnxruntime-gpu>=1.20; extra == 'onnx-cu12'",
    "onnxruntime-gpu>=1.17,<1.19; extra == 'onnx-cu11'",
    "onnx>=1.17; extra == 'export'",
    "runoff[torch]; extra == 'export'",
    "runoff[export,openvino]; extra == 'race'",
    "runoff[loop]; extra == 'loop'",
    "onnx; extra == 'loop'",
    "pywin32; extra == 'windows' and sys_platform == 'never'",
    "pywin32; (sys_platform == 'never' or python_version >= '3') and extra == 'either'",
)
_EXTRAS = (
    *("torch", "torch-cpu", "torch-cu126", "torch-cu130", "torch-jp6-cu126", "openvino", "onnx-cu12", "onnx-cu11"),
    *("export", "race", "loop", "windows", "either"),
)


def _requirements(requires: Sequence[str] = _REQUIRES, **versions: str) -> Requirements:
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    return Requirements(requires, _EXTRAS, named.get)


def test_no_extra_is_installed_when_nothing_is() -> None:
    assert _requirements(numpy="2.1").installed_extras() == ()


def test_extra_is_installed_when_its_version_is_taken() -> None:
    assert _requirements(openvino="2026.4.1").installed_extras() == ("openvino",)


def test_extra_is_not_installed_when_its_version_is_too_old() -> None:
    assert _requirements(openvino="2024.6.0").installed_extras() == ()


def test_extra_is_not_installed_when_its_version_cannot_be_read() -> None:
    assert _requirements(openvino="custom build").installed_extras() == ()


def test_extra_is_not_installed_when_it_brings_nothing_on_this_system() -> None:
    assert "windows" not in _requirements(pywin32="306").installed_extras()
    assert "either" in _requirements(pywin32="306").installed_extras()


def test_group_is_installed_when_all_that_it_includes_is() -> None:
    parts = {"torch": "2.9.0+cpu", "onnx": "1.18"}
    assert "race" not in _requirements(**parts).installed_extras()
    assert {"race", "export"} <= set(_requirements(**parts, openvino="2025.3").installed_extras())


def test_group_is_evaluated_when_it_includes_itself() -> None:
    assert "loop" in _requirements(onnx="1.18").installed_extras()
    assert "loop" not in _requirements().installed_extras()


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"torch": "2.9.1+cpu"}, {"torch", "torch-cpu"}),
        ({"torch": "2.9.1"}, {"torch", "torch-cpu"}),
        ({"torch": "2.9.1", "nvidia_cuda_runtime_cu12": "12.8.90"}, {"torch"}),
        ({"torch": "2.7.1+cu126"}, {"torch", "torch-cu126", "torch-jp6-cu126"}),
        ({"torch": "2.9.1+cu130"}, {"torch", "torch-cu130"}),
        ({"torch": "2.8.0+cu130"}, {"torch"}),
    ],
)
def test_torch_extra_is_installed_when_the_build_is_its_own(versions: dict[str, str], expected: set[str]) -> None:
    assert set(_requirements(**versions).installed_extras()) == expected


def test_refusal_names_the_versions_when_an_old_one_is_installed() -> None:
    assert _requirements().refusal("openvino", "2024.1.0") == "2024.1.0 is installed, runoff needs >=2025.0"


@pytest.mark.parametrize(
    ("distribution", "version"),
    [
        ("openvino", "2025.0"),
        ("OpenVINO", "2026.4.1"),
        ("onnxruntime-gpu", "1.18.1"),
        ("onnxruntime-gpu", "1.22.0"),
        ("torch", "2.6.0a0+ecf3bae40a.nv25.01"),
        ("torch", "not a version"),
        ("unheard-of", "0.1"),
    ],
)
def test_nothing_is_refused_when_a_requirement_takes_it(distribution: str, version: str) -> None:
    assert _requirements().refusal(distribution, version) is None


def test_version_between_two_extras_is_refused() -> None:
    refusal = _requirements().refusal("onnxruntime-gpu", "1.19.2")
    assert refusal == "1.19.2 is installed, runoff needs <1.19,>=1.17 or >=1.20"


def test_own_metadata_is_read_when_runoff_is_installed() -> None:
    extras = own_requirements({"openvino": "2026.4.1"}.get).installed_extras()
    assert "openvino" in extras
    assert "torch" not in extras
    assert own_requirements(installed_version).refusal("onnxruntime", "1.0") is not None
