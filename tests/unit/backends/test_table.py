"""The table of backends: names, options, and plug-ins through real entry points in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fakes.plugin_site import add_entry_point, make_plugin_site, plugged_in
from runoff.backends import table
from runoff.backends.protocol import SessionOptions
from runoff.environment.libraries import is_importable
from runoff.errors import BackendNotInstalled, RuntimeLoadError, UnknownName
from runoff.types import Device


def _python(site: Path, code: str) -> str:
    """What a fresh process prints that has the folder on its path."""
    code = f"import sys; sys.path.insert(0, {str(site)!r})\nfrom runoff.backends import table\n{code}"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_rows_stand_in_the_documented_order() -> None:
    assert list(table.rows())[:5] == ["trt", "torch", "hf", "onnx", "openvino"]


@pytest.mark.parametrize(
    ("name", "backend_id"), [("PyTorch", "torch"), ("ort", "onnx"), ("transformers", "hf"), ("OV", "openvino")]
)
def test_names_of_the_field_lead_to_the_row(name: str, backend_id: str) -> None:
    assert table.row(name).id == backend_id


def test_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UnknownName, match="known: trt, torch, hf, onnx, openvino") as caught:
        table.row("openvin")
    assert caught.value.hint == "did you mean 'openvino'?"


@pytest.mark.parametrize("name", ["trt", "TensorRT"])
def test_backend_whose_library_is_missing_names_its_extra(name: str) -> None:
    if is_importable("tensorrt"):
        pytest.skip("TensorRT is installed")
    assert table.row(name).id == "trt"
    with pytest.raises(BackendNotInstalled, match="No module named 'tensorrt'") as caught:
        table.backend(name)
    assert caught.value.hint == "pip install 'runoff[trt10]'"


def test_backends_for_a_format_come_in_order() -> None:
    assert [row.id for row in table.backends_for("onnx")] == ["onnx", "openvino"]
    assert table.backends_for("nothing") == []


def test_unknown_option_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="unknown option of backend 'torch' 'compil'; known: compile, ") as caught:
        table.check_options("pytorch", {"compil": True})
    assert caught.value.hint == "did you mean 'compile'?"


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_option_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(UnknownName, match="takes bool"):
        table.check_options("torch", {"compile": value})


def test_bool_is_no_number() -> None:
    with pytest.raises(UnknownName, match="takes int"):
        table.check_options("openvino", {"num_streams": True})


def test_unknown_choice_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="known: latency, throughput, undefined"):
        table.check_options("openvino", {"performance_hint": "speed"})


def test_device_kind_that_the_backend_does_not_drive_is_refused() -> None:
    with pytest.raises(RuntimeLoadError, match="'torch' has no device npu; it drives cpu, cuda, mps"):
        table.check_session("torch", SessionOptions(device=Device("npu")))


def test_missing_module_is_a_missing_backend() -> None:
    with pytest.raises(BackendNotInstalled, match="No module named 'runoff_nowhere'"):
        table.load("runoff_nowhere:Backend")


def test_missing_class_is_a_missing_backend() -> None:
    with pytest.raises(BackendNotInstalled, match="NoSuchClass"):
        table.load("runoff.backends.protocol:NoSuchClass")


def test_hint_names_the_extra_when_the_library_is_missing() -> None:
    code = """
sys.modules["openvino"] = None
from runoff.errors import BackendNotInstalled
try:
    table.backend("openvino")
except BackendNotInstalled as error:
    print(error.hint)
"""
    assert _python(Path(), code) == "pip install 'runoff[openvino]'"


def test_listing_imports_no_runtime() -> None:
    code = "table.rows(); print(sorted({'torch', 'onnxruntime', 'openvino', 'transformers'} & set(sys.modules)))"
    assert _python(Path(), code) == "[]"


def test_plugin_joins_the_rows_and_opens(tmp_path: Path) -> None:
    site = make_plugin_site(tmp_path / "site")
    code = "print(list(table.rows())[-1], type(table.backend('fake')).__name__, dict(table.broken_plugins()))"
    assert _python(site, code) == "fake FakeBackend {}"


def test_plugin_is_gone_afterwards(tmp_path: Path) -> None:
    with plugged_in(tmp_path / "site"):
        assert "fake" in table.rows()
    assert "fake" not in table.rows()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import runoff_nowhere", "ModuleNotFoundError: No module named 'runoff_nowhere'"),
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("ROW = {}", "is a dict, expected a BackendRow"),
        ("from runoff.backends.built_in import BUILT_IN\nROW = BUILT_IN[0]", "the id 'trt' is taken"),
    ],
)
def test_broken_plugin_is_a_reason(tmp_path: Path, source: str, reason: str) -> None:
    site = make_plugin_site(tmp_path / "site")
    (site / "runoff_shaky.py").write_text(source)
    add_entry_point(site, "shaky", "runoff_shaky:ROW")
    code = "print(table.broken_plugins()['shaky'], '|', 'fake' in table.rows(), 'shaky' in table.rows())"
    printed, _, listed = _python(site, code).partition(" | ")
    assert reason in printed
    assert listed == "True False"


def test_asking_for_a_broken_plugin_tells_why(tmp_path: Path) -> None:
    site = make_plugin_site(tmp_path / "site")
    (site / "runoff_shaky.py").write_text("raise RuntimeError('no licence')")
    add_entry_point(site, "shaky", "runoff_shaky:ROW")
    code = """
from runoff.errors import UnknownName
try:
    table.row("shaky")
except UnknownName as error:
    print(error)
"""
    assert _python(site, code) == "the plug-in of backend 'shaky' is broken: RuntimeError: no licence"
