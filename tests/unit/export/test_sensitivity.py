from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.export.sensitivity import MAX_GROUPS, SearchLog, Verdict, search


def _run(errors: dict[str, float], limit: float, budget_s: float = 1e9, step_s: float = 1.0) -> tuple[SearchLog, int]:
    """Search over layers whose errors add up; every judgement takes `step_s` on a clock of our own."""
    clock = itertools.count(0.0, step_s)
    tries = 0

    def judge(kept: tuple[str, ...]) -> Verdict:
        nonlocal tries
        tries += 1
        total = sum(error for layer, error in errors.items() if layer not in kept)
        return Verdict(total, None if total <= limit else f"{total} is over {limit}")

    before = Verdict(sum(errors.values()), "too much")
    return search(list(errors), judge, before, budget_s=budget_s, clock=lambda: next(clock)), tries


def test_worst_layer_is_kept_when_one_is_enough() -> None:
    log, _ = _run({"a": 1.0, "b": 9.0, "c": 1.0}, limit=2.0)
    assert log.kept == ("b",)
    assert log.ranking[0].layers == ("b",)
    assert log.after is not None and log.after.outside is None


def test_search_gives_up_when_almost_everything_kept_is_not_enough() -> None:
    log, _ = _run({"a": 5.0, "b": 9.0, "c": 7.0}, limit=2.0)
    assert (log.after, log.kept) == (None, ())
    assert [trial.num_kept for trial in log.trials] == [1, 2]


def test_single_layer_cannot_be_kept_since_nothing_would_be_quantised() -> None:
    log, _ = _run({"a": 5.0}, limit=2.0)
    assert (log.after, log.trials) == (None, ())


def test_layers_are_grouped_when_there_are_many() -> None:
    errors = {f"layer{i}": float(i == 70) for i in range(100)}
    log, tries = _run(errors, limit=0.5)
    assert "layer70" in log.kept and len(log.kept) <= 5
    assert tries <= MAX_GROUPS + 8


def test_layers_without_a_rank_are_kept_last_when_time_runs_out() -> None:
    errors = {"a": 1.0, "b": 3.0, "c": 9.0, "d": 9.0, "e": 9.0, "f": 9.0}
    log, tries = _run(errors, limit=100.0, budget_s=6.0)
    assert not log.complete
    assert tries <= 7
    assert log.kept[0] == max(log.ranking, key=lambda ranked: ranked.error).layers[0]


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=20), st.floats(0, 1))
def test_fewest_layers_are_kept_when_errors_add_up(errors: list[float], share: float) -> None:
    named = {f"layer{i}": error for i, error in enumerate(errors)}
    limit = share * sum(errors)
    log, _ = _run(named, limit)
    ordered = sorted(errors, reverse=True)
    needed = next(count for count in range(len(errors) + 1) if sum(ordered[count:]) <= limit + 1e-9)
    if 0 < needed < len(errors) and log.after is not None:
        assert len(log.kept) in (needed, needed + 1), "rounding of a sum may cost one"
    if needed == len(errors):
        assert log.after is None or len(log.kept) == len(errors) - 1


def test_ranking_is_the_error_of_each_layer_alone() -> None:
    log, _ = _run({"a": 1.0, "b": 9.0}, limit=5.0)
    assert {ranked.layers[0]: ranked.error for ranked in log.ranking} == pytest.approx({"a": 1.0, "b": 9.0})
