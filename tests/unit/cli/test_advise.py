"""`runoff advise`, as a user runs it."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from meta.repository import ROOT
from runoff.cli.app import run

ASKED = ("--hardware", "nvidia,intel,apple,android,browser", "--sensitivity", "latency", "--targets", "many")


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    shutil.copytree(ROOT / "examples" / "digits", tmp_path / "digits", ignore=shutil.ignore_patterns("records"))
    return str(tmp_path / "digits")


def _exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as caught:
        run(["advise", *arguments])
    return caught.value.code


def test_every_hardware_is_answered_with_reasons_and_commands(digits: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(digits, *ASKED, "--no-measure", "--json") == 0
    advice = json.loads(capsys.readouterr().out)
    assert {each["hardware"] for each in advice["recommendations"]} == set(ASKED[1].split(","))
    for each in advice["recommendations"]:
        assert each["why"] and each["source"].startswith("https://")
        assert all(command.startswith(("runoff ", "pip install 'runoff[")) for command in each["commands"])
        assert each["measured"] is None and each["unmeasured"].startswith("not measured on this machine: ")
        assert each["proven"] != "runs in the tests" or each["hardware"] in ("intel", "amd")
    assert advice["profile"]["weights"]["linear"] > 0


@pytest.mark.slow
def test_commands_are_ones_that_the_command_line_takes(
    digits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _exit_code(digits, "--hardware", "amd", "--sensitivity", "cold-start", "--targets", "one", "--json") == 0
    advice = json.loads(capsys.readouterr().out)
    made = advice["recommendations"][0]
    assert made["measured"]["cold_start_s"] > 0
    for command in made["commands"]:
        with pytest.raises(SystemExit) as caught:
            run([*command.split()[1:], "--json"])
        assert caught.value.code == 0, command


def test_text_names_figures_or_their_absence(digits: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(digits, *ASKED, "--no-measure") == 0
    printed = capsys.readouterr().out
    assert "digits, sensitive to latency, for many kinds of machine" in printed
    assert "41 % of its weights are linear; open batch; labelled data of its own" in printed
    assert printed.count("not measured on this machine") >= 5
    assert "measured:" not in printed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "--hardware is missing"),
        (("--hardware", "intel"), "--sensitivity is missing"),
        (("--hardware", "intel", "--sensitivity", "size"), "--targets is missing"),
        (("--hardware", "toaster", "--sensitivity", "size", "--targets", "one"), "known: nvidia, intel, amd"),
    ],
)
def test_missing_or_unknown_answer_is_a_usage_error(
    digits: str, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], message: str
) -> None:
    assert _exit_code(digits, *given) == 2
    assert message in capsys.readouterr().err


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_person_at_a_terminal_is_asked(
    digits: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", _Terminal("android\nsize\none\n"))
    assert _exit_code(digits, "--no-measure") == 0
    printed = capsys.readouterr()
    assert "Which hardware" in printed.err and "web pages" in printed.err
    assert "digits, sensitive to size, for one kind of machine" in printed.out
