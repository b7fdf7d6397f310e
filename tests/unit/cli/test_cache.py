"""`runoff cache` lists, prunes and checks."""

from __future__ import annotations

import json

import pytest

from runoff.cli.app import run
from runoff.models import cache


@pytest.fixture(autouse=True)
def content(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    return [cache.put_stream([bytes([number]) * 3000]) for number in range(2)]


def _call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        run(["cache", *arguments])
    return caught.value.code


def test_list_shows_entries_and_total(tmp_path, capsys, content):
    assert _call("list") == 0
    out = capsys.readouterr().out
    assert content[0] in out
    assert "2 entries, 5.9 KiB" in out
    assert _call("list", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["bytes"] == 6000
    assert {entry["name"] for entry in data["entries"]} == set(content)


def test_list_is_empty_when_there_is_no_cache_yet(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "none"))
    assert _call("list") == 0
    assert "0 entries" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "deleted"),
    [
        (["--all"], 2),
        (["--max-size", "3k"], 1),
        (["--max-size", "1GiB"], 0),
        (["--older-than", "30d"], 0),
        (["--max-size", "0"], 2),
    ],
)
def test_prune_deletes_what_it_is_told(capsys, arguments, deleted):
    assert _call("prune", *arguments, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["deleted"]) == deleted


@pytest.mark.parametrize("arguments", [[], ["--max-size", "much"], ["--older-than", "5x"], ["--older-than", "-1d"]])
def test_prune_is_wrong_usage_when_it_says_nothing_clear(arguments):
    assert _call("prune", *arguments) == 2


def test_verify_fails_until_the_damage_is_deleted(capsys, content):
    assert _call("verify") == 0
    cache.get(content[0]).write_bytes(b"rotten")
    assert _call("verify") == 1
    assert content[0] in "".join(capsys.readouterr().out.split())
    assert _call("verify", "--delete", "--json") == 0
    assert [finding["entry"]["name"] for finding in json.loads(capsys.readouterr().out)["broken"]] == [content[0]]
    assert _call("verify") == 0
