"""ONNX Runtime asked in its own process: sound, raising, crashing, hanging and babbling ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runoff.environment.execution_providers import Answer, Question

_LIST = "def get_available_providers(): return ['A', 'B']\n"


def _ask(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str, timeout_s: float = 60) -> Answer:
    """The answer of a process in which `onnxruntime` is this code."""
    package = folder / "onnxruntime"
    package.mkdir()
    (package / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with Question(timeout_s) as question:
        return question.answer()


def test_providers_are_listed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _ask(tmp_path, monkeypatch, _LIST) == Answer(("A", "B"))


def test_providers_are_listed_when_the_library_prints_on_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _ask(tmp_path, monkeypatch, f"print('welcome')\n{_LIST}") == Answer(("A", "B"))


def test_library_is_broken_when_importing_it_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = _ask(tmp_path, monkeypatch, "raise ImportError('libcudart.so.12: cannot open shared object file')\n")
    assert answer == Answer(problem="broken: ImportError: libcudart.so.12: cannot open shared object file")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_library_is_broken_when_importing_it_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = _ask(tmp_path, monkeypatch, "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    assert answer == Answer(problem="broken: importing it ended the process by SIGSEGV")


def test_library_is_broken_when_importing_it_exits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = _ask(tmp_path, monkeypatch, "import os\nos._exit(7)\n")
    assert answer == Answer(problem="broken: importing it ended the process with exit code 7")


def test_library_is_broken_when_importing_it_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = _ask(tmp_path, monkeypatch, "import time\ntime.sleep(600)\n", timeout_s=0.3)
    assert answer == Answer(problem="broken: importing it took more than 0.3 s")


def test_library_is_broken_when_it_lists_no_providers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = _ask(tmp_path, monkeypatch, "def get_available_providers(): return 5\n")
    assert answer == Answer(problem="broken: it was imported, but did not list its execution providers")


def test_file_in_the_working_directory_is_not_taken_for_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/onnxruntime.py").write_text("raise ImportError('wrong one')\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert _ask(tmp_path, monkeypatch, _LIST) == Answer(("A", "B"))


def test_process_is_gone_when_the_question_is_closed_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    question = Question()
    question.close()
    question.close()
    assert question.answer().problem is not None
