import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runoff.child import Child, RemoteError
from runoff.errors import ChildFailed

MODULE = "fakes.child_modules"
PATIENCE_S = 30.0
MIB = 2**20


@pytest.fixture
def child() -> Iterator[Child]:
    with Child(MODULE) as made:
        yield made


def is_gone(pid: int, within_s: float = 5.0) -> bool:
    """Whether a process ends in time; one that is dead and not yet waited for is gone."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_call_answers_what_the_handler_returned(child) -> None:
    assert child.call("echo", PATIENCE_S, text="ä\n", number=1.5, nested={"a": [1, None]}) == {
        "text": "ä\n",
        "number": 1.5,
        "nested": {"a": [1, None]},
    }
    assert child.call("pid", PATIENCE_S) == {"pid": child.pid}


def test_long_answer_is_whole(child) -> None:
    text = "x" * 3_000_000
    assert child.call("echo", PATIENCE_S, text=text)["text"] == text


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGSEGV, "crashed with SIGSEGV"),
        (signal.SIGABRT, "crashed with SIGABRT"),
        (signal.SIGKILL, "crashed with SIGKILL, most likely because the machine ran out of memory"),
    ],
)
def test_crash_is_told_with_its_signal(child, number, words) -> None:
    with pytest.raises(ChildFailed) as caught:
        child.call("die", PATIENCE_S, number=int(number))
    assert caught.value.message == words
    assert is_gone(child.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="real-time signals without a name are Linux's")
def test_crash_by_a_signal_without_a_name_is_told_with_its_number(child) -> None:
    with pytest.raises(ChildFailed, match="crashed with signal 40"):
        child.call("die", PATIENCE_S, number=40)


def test_exit_is_told_with_its_code_and_last_words(child) -> None:
    with pytest.raises(ChildFailed) as caught:
        child.call("leave", PATIENCE_S, code=3, words="no license found")
    assert caught.value.message == "ended with exit code 3: no license found"


def test_module_that_cannot_start_is_told_with_its_error() -> None:
    with Child("fakes.no_such_module") as made, pytest.raises(ChildFailed, match=r"exit code 1: .*no_such_module"):
        made.call("echo", PATIENCE_S)


def test_hang_is_told_and_ended(child) -> None:
    child.call("echo", PATIENCE_S)
    started = time.monotonic()
    with pytest.raises(ChildFailed) as caught:
        child.call("sleep", 0.3, seconds=600)
    assert caught.value.message == "hung: no answer to 'sleep' within 0.3 s"
    assert time.monotonic() - started < 10
    assert is_gone(child.pid)


def test_slow_answer_within_the_timeout_is_no_hang(child) -> None:
    assert child.call("sleep", PATIENCE_S, seconds=0.2) == {"slept": 0.2}


def test_child_is_stopped_when_it_uses_too_much_memory() -> None:
    with Child(MODULE, max_memory_bytes=200 * MIB) as made:
        assert made.call("echo", PATIENCE_S) == {}
        with pytest.raises(ChildFailed, match=r"used \d{3} MiB of memory, more than 200 MiB"):
            made.call("hoard", PATIENCE_S, block_bytes=16 * MIB, blocks=60)
        assert is_gone(made.pid)


def test_noise_on_standard_output_does_not_reach_the_pipe(child) -> None:
    assert child.call("noise", PATIENCE_S, size=100_000) == {"quiet": True}
    assert child.call("echo", PATIENCE_S, still="there") == {"still": "there"}


def test_noise_before_the_first_answer_is_a_failure_in_words() -> None:
    with Child("fakes.noisy_child") as made, pytest.raises(ChildFailed, match="welcome to the noisy library"):
        made.call("echo", PATIENCE_S)


def test_error_of_a_handler_crosses_with_code_and_hint_and_the_child_goes_on(child) -> None:
    with pytest.raises(RemoteError) as caught:
        child.call("fail", PATIENCE_S, kind="own")
    error = caught.value
    assert (error.kind, error.code, error.message, error.hint) == (
        "RuntimeLoadError",
        "RUNOFF-500",
        "the runtime refused",
        "use another one",
    )
    with pytest.raises(RemoteError) as caught:
        child.call("fail", PATIENCE_S, kind="other")
    assert caught.value.message == "KeyError: 'other'"
    assert child.call("echo", PATIENCE_S, still="there") == {"still": "there"}


def test_running_out_of_memory_inside_is_told_as_such(child) -> None:
    with pytest.raises(RemoteError) as caught:
        child.call("fail", PATIENCE_S, kind="memory")
    assert (caught.value.message, caught.value.code) == ("ran out of memory", ChildFailed.code)


def test_unknown_operation_is_an_error_and_no_crash(child) -> None:
    with pytest.raises(RemoteError, match="KeyError: 'dance'"):
        child.call("dance", PATIENCE_S)


def test_interrupt_of_the_terminal_does_not_reach_the_child(child) -> None:
    assert child.call("interrupt", PATIENCE_S) == {"alive": True}


def test_close_twice_is_fine_and_a_call_afterwards_fails(child) -> None:
    child.call("echo", PATIENCE_S)
    child.close()
    child.close()
    assert is_gone(child.pid)
    with pytest.raises(ChildFailed, match="was closed"):
        child.call("echo", PATIENCE_S)


def test_call_after_a_crash_fails_for_the_same_reason(child) -> None:
    for _ in range(2):
        with pytest.raises(ChildFailed, match="crashed with SIGSEGV"):
            child.call("die", PATIENCE_S, number=int(signal.SIGSEGV))


def test_close_ends_what_the_child_started(child) -> None:
    grandchild = child.call("start_grandchild", PATIENCE_S)["pid"]
    child.close()
    assert is_gone(grandchild)


def test_child_has_the_variables_that_it_was_given() -> None:
    with Child(MODULE, environment={"RUNOFF_TEST_WORD": "given"}) as made:
        assert made.call("variable", PATIENCE_S, name="RUNOFF_TEST_WORD") == {"value": "given"}


def test_file_in_the_working_directory_does_not_pass_for_a_library(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit('a trap')")
    monkeypatch.chdir(tmp_path)
    with Child(MODULE) as made:
        assert made.call("echo", PATIENCE_S, fine=True) == {"fine": True}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a child when its parent is gone")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_child_and_what_it_forked_are_gone_when_its_parent_is_killed(busy) -> None:
    script = (
        "import time\n"
        "from runoff.child import Child\n"
        f"child = Child({MODULE!r})\n"
        "print(child.pid, child.call('fork', 30)['pid'], flush=True)\n"
        + ("child.call('sleep', 600, seconds=600)\n" if busy else "time.sleep(600)\n")
    )
    path = os.pathsep.join(sys.path)
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": path}
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert len(pids) == 2
    assert all(is_gone(pid) for pid in pids)


def test_child_ends_when_its_pipe_closes(child) -> None:
    child.call("echo", PATIENCE_S)
    child._process.stdin.close()
    assert child._process.wait(timeout=10) == 0
