import copy
import pickle

import pytest

from runoff.child import RemoteError
from runoff.errors import ModelNotFound, NoCandidate, RunoffError, unknown_name


def test_text_of_an_error_ends_with_its_hint() -> None:
    error = ModelNotFound("there is nothing", hint="look elsewhere")
    assert str(error) == "there is nothing\nhint: look elsewhere"
    assert (error.message, error.hint, error.code) == ("there is nothing", "look elsewhere", "RUNOFF-201")


def test_text_of_an_error_without_a_hint_is_its_message() -> None:
    assert str(RunoffError("broken")) == RunoffError("broken").message == "broken"


def test_rejections_stand_below_the_message_in_columns() -> None:
    error = NoCandidate("none fits", rejections={"a": "too slow", "longer": "not there"}, hint="install it")
    assert str(error) == "none fits\n  a       too slow\n  longer  not there\nhint: install it"
    assert error.rejections == {"a": "too slow", "longer": "not there"}


def test_rejections_may_be_none() -> None:
    assert str(NoCandidate("none fits", rejections={})) == "none fits"


def test_unknown_name_lists_the_known_ones_and_hints_at_the_nearest() -> None:
    error = unknown_name("backend", "onx", ["torch", "onnx"])
    assert error.message == "unknown backend 'onx'; known: torch, onnx"
    assert error.hint == "did you mean 'onnx'?"
    assert unknown_name("backend", "zzz", ["torch"]).hint is None
    assert unknown_name("option", "zzz", []).message == "unknown option 'zzz'; known: none"


def test_remote_error_has_the_code_that_it_had_over_there() -> None:
    error = RemoteError("RuntimeLoadError", "RUNOFF-500", "refused", None)
    assert (error.code, error.kind) == ("RUNOFF-500", "RuntimeLoadError")
    assert RunoffError.code == "RUNOFF-000", "the class keeps its own"


@pytest.mark.parametrize(
    "error",
    [
        ModelNotFound("there is nothing", hint="look elsewhere"),
        NoCandidate("none fits", rejections={"a": "too slow"}, hint="install it"),
        RemoteError("RuntimeLoadError", "RUNOFF-500", "refused", "a hint"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_is_whole_after_it_was_pickled_or_copied(error) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert str(twin) == str(error)
        assert (twin.hint, twin.code) == (error.hint, error.code)
        assert getattr(twin, "rejections", None) == getattr(error, "rejections", None)
