"""The table of runtimes: what a cell says, which cells count, and the whole way on the smallest model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from meta.repository import ROOT
from output import replace_section
from runoff.backends import table
from runoff.types import Precision
from runtime_cells import Cell, Conversion, Form, Result, list_forms, read_result
from runtime_table import BEGIN, END, PAGE, core_line, page_lines

FORMS = [Form(table.row("onnx"), "onnx"), Form(table.row("litert"), "litert"), Form(table.row("ncnn"), "ncnn")]
FACTS = {"cpu.model": "A CPU", "onnxruntime": "1.31.1"}


def _result() -> Result:
    return Result(
        model="mlp",
        conversions={"litert-fp32": Conversion(1.0, "litert-fp32-b1"), "onnx-fp32": Conversion(1.0, "onnx-fp32")},
        cells={
            "onnx-fp32": Cell(converts=True, max_rel=3e-7, p50_ms=0.3, size_bytes=2**20, load_s=0.5),
            "litert-fp32": Cell(converts=True, max_rel=0.0, p50_ms=0.2, size_bytes=2**21, load_s=0.25),
            "ncnn-fp32": Cell("ncnn has no layer for it"),
        },
        facts=FACTS,
        raced_at="2026-01-02T03:04:05Z",
    )


def test_cell_has_latency_over_the_best_error_size_and_load_time() -> None:
    lines = page_lines(FORMS, [_result()], "")
    assert "| `onnx-fp32` | **1.50**, 3e-7, 1 MiB, 0.50 s |" in lines
    assert "| `litert-fp32` | **1.00**, 0, 2 MiB, 0.25 s, b1 |" in lines
    assert "A CPU, 1 thread, 2026-01-02; onnxruntime 1.31.1." in lines


def test_red_cell_points_to_its_reason() -> None:
    lines = page_lines(FORMS, [_result()], "")
    assert "| `ncnn-fp32` | - (1) |" in lines
    assert lines[-1] == "1. ncnn has no layer for it"


def test_wrong_form_is_not_what_others_are_compared_with() -> None:
    result = _result()
    result.cells["litert-fp32"] = Cell("outside its contract", converts=True, p50_ms=0.001, size_bytes=2**20)
    assert "| `onnx-fp32` | **1.00**, 3e-7, 1 MiB, 0.50 s |" in page_lines(FORMS, [result], "")
    assert core_line(FORMS, [result]).startswith("Of the 2 cells of onnx, litert in their first format, 1 convert")


def test_every_format_that_a_backend_opens_has_one_row() -> None:
    forms = [form.id for form in list_forms()]
    assert len(forms) == len(set(forms))
    expected = {
        table.package_id(format_id, Precision.FP32)
        for row in table.rows().values()
        for format_id in row.formats
        if format_id != "safetensors"
    }
    assert expected <= set(forms)


def test_page_has_a_place_for_the_table() -> None:
    page = PAGE.read_text()
    assert (page.count(BEGIN), page.count(END)) == (1, 1)


def test_section_is_replaced_and_nothing_else() -> None:
    assert replace_section("head\n<a>\nold\n<b>\ntail\n", "<a>", "<b>", ["new"]) == "head\n<a>\n\nnew\n\n<b>\ntail\n"
    with pytest.raises(ValueError, match="no section"):
        replace_section("head", "<a>", "<b>", [])


@pytest.mark.slow
def test_benchmark_runs_on_the_smallest_model(tmp_path: Path) -> None:
    options = ["--models", "mlp", "--forms", "torch-fp32,hf-fp32,onnx-fp32", "--rounds", "1", "--warmup-s", "0.1"]
    command = [sys.executable, str(ROOT / "benchmarks" / "runtimes.py"), "--work", str(tmp_path), *options]
    for _ in range(2):
        done = subprocess.run([*command, "--threads", "1"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "converting" not in done.stderr, "the second run goes on from the figures of the first"
    cells = read_result(tmp_path, "mlp").cells
    assert [cells[form].reason for form in ("torch-fp32", "onnx-fp32")] == [None, None]
    assert cells["onnx-fp32"].p50_ms is not None
    assert "no conversion leads" in (cells["hf-fp32"].reason or "")
