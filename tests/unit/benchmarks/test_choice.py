"""The benchmark of the choice: what counts as held and as beaten, and the whole way on the smallest model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from choice_cells import (
    Cell,
    ModelChoice,
    Narrow,
    Starts,
    Timed,
    beats_freed_orders,
    beats_orders,
    install_ratio,
    order_ratio,
    read_choice,
)
from choice_table import BEGIN, END, PAGE, page_lines
from meta.repository import ROOT
from runoff.race.fidelity import Level


def _cell(pick_ms: float, best_ms: float, contract: Level = "close", spread: float = 0.0) -> Cell:
    pick, best = Timed("openvino-fp32+default@1", pick_ms), Timed("onnx-fp32@1", best_ms)
    return Cell(
        batch=1,
        contract=contract,
        pick=pick,
        best=best,
        spread=spread,
        latencies_ms={pick.candidate: pick.ms, best.candidate: best.ms},
        orders={"PyTorch first": Timed("torch-fp32@1", 4.0), "ONNX first": Timed("onnx-fp32@1", 2.0)},
        installs={"torch": Timed("torch-fp32+compile@1", 3.0), "onnx": Timed("onnx-int8-static@1", 1.0)},
    )


def _choice() -> ModelChoice:
    return ModelChoice(
        model="mlp",
        facts={"cpu.model": "A CPU"},
        raced_at="2026-01-02T03:04:05Z",
        threads=1,
        cells=(_cell(1.0, 1.0, "exact"), _cell(1.0, 0.9)),
        starts=Starts(
            {level: "onnx-fp32@1" for level in ("exact", "close", "bounded")},
            {level: "torch-fp32@1" for level in ("exact", "close", "bounded")},
            {"onnx-fp32@1": 0.5, "torch-fp32@1": 2.0},
        ),
        narrow=(Narrow("onnx-int8-static@1", 0.31, "largest relative error 0.31 is over 0.2 (bounded)"),),
    )


def test_pick_holds_within_five_percent_or_the_spread() -> None:
    assert _cell(1.05, 1.0).holds
    assert not _cell(1.06, 1.0).holds
    assert _cell(1.06, 1.0, spread=0.07).holds


def test_order_is_beaten_when_it_is_over_five_percent_slower() -> None:
    assert beats_orders([_cell(1.0, 1.0)])
    assert not beats_orders([_cell(1.95, 1.95)])


def test_order_that_knows_its_best_form_is_harder_to_beat() -> None:
    cells = [_cell(1.0, 1.0)]
    assert beats_orders(cells)
    assert not beats_freed_orders(cells)
    assert (order_ratio(cells, "ONNX first"), install_ratio(cells, "onnx")) == (2.0, 1.0)


def test_order_that_could_not_run_is_not_beaten() -> None:
    assert not beats_orders([msgspec.structs.replace(_cell(1.0, 1.0), orders={})])


def test_page_shows_a_regret_that_is_too_large_in_bold() -> None:
    lines = page_lines([_choice()], "The machine was shared.")
    assert "| MLP | 1 | exact | `openvino-fp32+default@1` | 1 | 1.00 | 4.00 | 2.00 | 3.00 | 1.00 | - |" in lines
    assert "| MLP | 1 | close | `openvino-fp32+default@1` | 1 | **1.11** | 4.00 | 2.00 | 3.00 | 1.00 | - |" in lines
    assert "The machine was shared." in lines


def test_page_shows_cold_starts_and_what_is_wrong_at_8_bits() -> None:
    lines = page_lines([_choice()], "")
    assert "| MLP | `onnx-fp32@1` | 0.50 | `torch-fp32@1` | 2.00 | 2.00 | 0.50 | - |" in lines
    assert "| MLP | `onnx-int8-static@1` | 0.31 | no |" in lines
    assert any("PyTorch first 4.00, ONNX first 1.00" in line for line in lines if "Cold start" in line)


def test_page_has_a_place_for_the_figures() -> None:
    page = PAGE.read_text()
    assert (page.count(BEGIN), page.count(END)) == (1, 1)


@pytest.mark.slow
def test_benchmark_runs_on_the_smallest_model(tmp_path: Path) -> None:
    options = ["--models", "mlp", "--backends", "onnx", "--precisions", "fp32,int8", "--rounds", "2", "--starts", "1"]
    script = [sys.executable, str(ROOT / "benchmarks" / "choice.py"), "--work", str(tmp_path)]
    command = [*script, *options, "--warmup-s", "0.1", "--threads", "1"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr
    assert done.stderr == "", "the second run measures nothing"
    choice = read_choice(tmp_path, "mlp")
    assert choice is not None
    assert {cell.contract for cell in choice.cells} == {"exact", "close", "bounded"}
    assert {narrow.candidate for narrow in choice.narrow} >= {"onnx-int8-static@1", "onnx-int8-dynamic@1"}
    assert all(cell.best.ms <= cell.pick.ms for cell in choice.cells)
