"""The table of execution providers, held against what the installed ONNX Runtime knows."""

from __future__ import annotations

import onnxruntime as ort
import pytest

from meta.repository import pyproject
from runoff.backends.built_in import BUILT_IN
from runoff.backends.execution_providers import EXECUTION_PROVIDERS, find_provider, how_to_get, providers_for

EXTRAS = pyproject()["project"]["optional-dependencies"]
GONE = {"ROCMExecutionProvider"}
"""Of older versions of ONNX Runtime, for those who run one."""


def test_every_row_is_a_provider_of_onnx_runtime() -> None:
    known = set(ort.get_all_providers())
    assert {row.name for row in EXECUTION_PROVIDERS} - known <= GONE


def test_every_provider_that_is_installed_here_has_a_row() -> None:
    assert [name for name in ort.get_available_providers() if find_provider(name) is None] == []


@pytest.mark.parametrize("row", EXECUTION_PROVIDERS, ids=lambda row: row.name)
def test_row_names_an_extra_of_the_project_and_a_known_device(row) -> None:
    assert row.brings is None or row.brings in EXTRAS
    devices = next(backend.devices for backend in BUILT_IN if backend.id == "onnx")
    assert set(row.devices) <= set(devices)


def test_every_device_of_the_backend_has_a_provider() -> None:
    for device in next(backend.devices for backend in BUILT_IN if backend.id == "onnx"):
        assert providers_for(device), device


@pytest.mark.parametrize(("name", "found"), [("cuda", "CUDA"), ("QNN", "QNN"), ("xnnpack", "Xnnpack"), ("none", None)])
def test_provider_is_found_by_its_short_name(name: str, found: str | None) -> None:
    row = find_provider(name)
    assert (row.name if row else None) == (f"{found}ExecutionProvider" if found else None)


def test_way_to_a_provider_names_the_extra_or_the_build() -> None:
    assert "runoff[onnx-cu12]" in how_to_get(providers_for("cuda"))
    assert "onnxruntime-qnn (needs a Snapdragon" in how_to_get(providers_for("npu"))
