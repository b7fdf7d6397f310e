"""The terminal: the table's content at its narrowest, reasons in full, progress that stays off standard output."""

from __future__ import annotations

import io
import sys

import msgspec
import pytest
from rich.console import Console

from fakes.race_results import CRASH, PACKAGES, UNMADE, entrant, fidelity, full_race, race
from runoff.race.options import Event
from runoff.race.report.terminal import ProgressListener, print_result, race_table
from runoff.race.run import RaceResult

_TORCH, _ONNX, _, _ = PACKAGES
EVENTS = (
    Event("wait", "another race holds the folder"),
    Event("make", "exporting onnx-fp32"),
    Event("check", "torch-fp32@4", 0, 2),
    Event("check", "onnx-fp32@4", 1, 2),
    Event("time", "warming up onnx-fp32@4"),
    Event("time", "round 1", 0, 7),
    Event("time", "[bold]round 2", 1, 7),
    Event("done", "recorded"),
)


def _printed(result: RaceResult, width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_result(result, console)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def _line(text: str, name: str) -> list[str]:
    """The cells of a candidate's line in the first table, its number first."""
    return next(cells for line in text.splitlines() if (cells := line.split())[1:2] == [name])


def test_table_shows_the_figures_of_a_candidate() -> None:
    line = _line(_printed(race([entrant(_TORCH, p50_ms=(1.25,)), entrant(_ONNX, p50_ms=(0.5,))])), "onnx-fp32@4")
    assert line[:6] == ["1", "onnx-fp32@4", "fp32", "0.500", "±", "1.1%"]
    assert line[7:] == ["2,000", "0.40", "120", "0", "won"]


def test_table_has_a_line_for_each_batch_size() -> None:
    lines = _printed(full_race()).splitlines()
    place = next(index for index, line in enumerate(lines) if "onnx-fp32@4 " in line and " won" in line)
    assert lines[place].split()[3:5] == ["1", "0.500"]
    assert lines[place + 1].split()[:2] == ["8", "1.875"]


def test_verdicts_and_places_follow_the_decision() -> None:
    text = _printed(full_race())
    verdicts = {
        name: _line(text, name)[-1] for name in ("onnx-fp32@4", "openvino-fp32@4", "torch-fp32@4", "onnx-bf16@4")
    }
    assert list(verdicts.values()) == ["won", "tie", "eligible", "rejected"]


@pytest.mark.parametrize("width", [100, 120, 140])
def test_every_reason_and_note_is_printed_at_every_width(width: int) -> None:
    result = full_race()
    text = " ".join(_printed(result, width).split())
    for reason in (*(rejection.reason for rejection in result.decision.rejections), "note: the machine was busy"):
        assert reason in text


@pytest.mark.parametrize("width", [100, 120, 140])
def test_no_cell_is_cut_at_a_width(width: int) -> None:
    labelled = {"fidelity": fidelity(1e-6, 0.98), "cold_start_s": 12.34, "peak_memory_bytes": 2**31}
    entrants = [
        entrant(_TORCH, "compile-bf16", 16, p50_ms=(123.4, 987.6), changes=labelled),
        entrant(_TORCH, p50_ms=(130, 990)),
    ]
    text = _printed(race(entrants, batches=(1, 8), changes={"reference_metric": {"accuracy": 0.98}}), width)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    for cell in ("98.00", "12.34", "2,048", "accuracy", "eligible", "verdict"):
        assert cell in text


def test_control_codes_and_markup_in_reasons_are_plain_text() -> None:
    evil = "\x1b[31mred [bold]not bold[/bold]"
    text = _printed(race([entrant(_TORCH, p50_ms=(1.0,)), entrant(_ONNX, changes={"failure": evil})]))
    assert "\x1b" not in text
    assert "[bold]not bold[/bold]" in text


def test_outcome_says_so_when_every_candidate_is_rejected() -> None:
    text = _printed(race([entrant(_TORCH, max_rel=None, changes={"failure": CRASH})]))
    assert "No candidate is eligible" in text
    assert CRASH in text


def test_table_of_packages_that_were_never_raced_is_not_measured() -> None:
    result = race([], changes={"unmade": {"hf-fp32": UNMADE}})
    assert race_table(result).row_count == 1
    assert _line(_printed(result), "torch-fp32")[-1] == "guessed"


def test_progress_is_occasional_lines_when_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    file = io.StringIO()
    with ProgressListener(Console(file=file, width=100)) as listener:
        for event in EVENTS:
            listener(event)
    assert file.getvalue().splitlines() == [
        "waiting: another race holds the folder",
        "making: exporting onnx-fp32",
        "checking 1/2: torch-fp32@4",
        "timing: warming up onnx-fp32@4",
        "done: recorded",
    ]
    assert capsys.readouterr().out == ""


def test_progress_is_a_bar_on_a_terminal_and_leaves_standard_output_alone(capsys: pytest.CaptureFixture[str]) -> None:
    file = io.StringIO()
    stdout = sys.stdout
    with ProgressListener(Console(file=file, width=100, force_terminal=True, _environ={"TERM": "xterm"})) as listener:
        for event in EVENTS:
            listener(event)
        assert sys.stdout is stdout
        sys.stdout.write('{"json": true}\n')
    assert capsys.readouterr().out == '{"json": true}\n'
    assert "recorded" in file.getvalue()


def test_progress_ends_when_the_race_fails() -> None:
    file = io.StringIO()
    with (
        pytest.raises(KeyboardInterrupt),
        ProgressListener(Console(file=file, force_terminal=True, _environ={"TERM": "xterm"})) as listener,
    ):
        listener(msgspec.structs.replace(EVENTS[0]))
        raise KeyboardInterrupt
    assert file.getvalue().endswith(("\x1b[?25h", "\x1b[2K"))
