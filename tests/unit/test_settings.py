from pathlib import Path

import pytest

from runoff import settings
from runoff.errors import SettingInvalid


def test_cache_is_the_named_folder_else_below_the_user_s_caches(monkeypatch) -> None:
    monkeypatch.setenv("RUNOFF_CACHE", "~/mine")
    assert settings.cache_folder() == Path.home() / "mine"
    monkeypatch.delenv("RUNOFF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert settings.cache_folder() == Path("/somewhere/runoff")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert settings.cache_folder() == Path.home() / ".cache" / "runoff"


def test_empty_variable_is_as_good_as_none(monkeypatch) -> None:
    monkeypatch.setenv("RUNOFF_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("RUNOFF_WORKER_TIMEOUT_S", "")
    monkeypatch.setenv("RUNOFF_OFFLINE", "")
    monkeypatch.setenv("RUNOFF_MODELS", "")
    assert settings.cache_folder() == Path.home() / ".cache" / "runoff"
    assert settings.worker_timeout_s() == 600.0
    assert settings.offline() is False
    assert settings.models_folder() is None


@pytest.mark.parametrize(
    ("name", "read", "default"),
    [
        ("RUNOFF_LOCK_TIMEOUT_S", settings.lock_timeout_s, 600.0),
        ("RUNOFF_DOWNLOAD_TIMEOUT_S", settings.download_timeout_s, 30.0),
        ("RUNOFF_WORKER_TIMEOUT_S", settings.worker_timeout_s, 600.0),
    ],
)
def test_seconds_are_read_on_every_call(monkeypatch, name, read, default) -> None:
    monkeypatch.delenv(name, raising=False)
    assert read() == default
    monkeypatch.setenv(name, "2.5")
    assert read() == 2.5
    for text in ("0", "-1", "soon", "nan", "inf", "1 s"):
        monkeypatch.setenv(name, text)
        with pytest.raises(SettingInvalid, match=f"{name}=") as caught:
            read()
        assert caught.value.hint is not None


def test_flag_is_true_or_false_or_refused(monkeypatch) -> None:
    for text in ("1", "true", "YES", "On"):
        monkeypatch.setenv("RUNOFF_OFFLINE", text)
        assert settings.offline() is True
    for text in ("0", "False", "no", "off"):
        monkeypatch.setenv("RUNOFF_OFFLINE", text)
        assert settings.offline() is False
    monkeypatch.setenv("RUNOFF_OFFLINE", "maybe")
    with pytest.raises(SettingInvalid, match="neither true nor false"):
        settings.offline()


def test_models_folder_is_expanded(monkeypatch) -> None:
    monkeypatch.setenv("RUNOFF_MODELS", "~/models")
    assert settings.models_folder() == Path.home() / "models"


def test_no_visible_device_is_not_the_same_as_no_wish(monkeypatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert settings.visible_cuda_devices() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert settings.visible_cuda_devices() == ""


def test_environment_of_a_child_is_a_copy_with_changes(monkeypatch) -> None:
    monkeypatch.setenv("RUNOFF_CACHE", "/a")
    made = settings.child_environment(RUNOFF_OFFLINE="1")
    assert (made["RUNOFF_CACHE"], made["RUNOFF_OFFLINE"]) == ("/a", "1")
    made["RUNOFF_CACHE"] = "/b"
    assert settings.cache_folder() == Path("/a")
