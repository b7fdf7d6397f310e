import msgspec
import pytest

from fakes import golden_decisions, race_facts
from fakes.race_facts import entrant, manifest, package, record, timing
from runoff.race.decide import decide
from runoff.race.explain import GUESS_HINT, explain
from runoff.race.wish import Wish

MACHINE = race_facts.environment()
ONNX = package("onnx-fp32")


@pytest.mark.parametrize("name", golden_decisions.case_names())
def test_explanation_is_the_golden_text(name: str) -> None:
    text = explain(golden_decisions.decide_case(golden_decisions.read_case(name)))
    assert text + "\n" == golden_decisions.explanation_path(name).read_text()


@pytest.mark.parametrize(
    ("objective", "figure"),
    [
        ("latency", "2 ms ±0.0 %, fp32, 100 MiB, starts in 0.50 s"),
        ("throughput", "500 items/s ±0.0 %, fp32, 100 MiB, starts in 0.50 s"),
        ("cold-start", "0.5 s, fp32, 100 MiB"),
        ("memory", "100 MiB, fp32, starts in 0.50 s"),
        ("size", "3 MiB, fp32, 100 MiB, starts in 0.50 s"),
    ],
)
def test_figure_of_the_objective_is_told_first_and_once(objective, figure) -> None:
    facts = record(msgspec.structs.replace(entrant(ONNX, timing([2.0] * 3)), size_bytes=3 << 20))
    text = explain(decide(manifest(ONNX), MACHINE, Wish(objective=objective), facts))
    assert f"measured best by {objective}" in text
    assert text.endswith(f"  1  onnx-fp32@8  {figure}")


def test_guess_says_so_and_names_the_race() -> None:
    text = explain(decide(manifest(ONNX), MACHINE, Wish(), None))
    assert "guessed by the documented order" in text
    assert text.endswith(f"hint: {GUESS_HINT}")


def test_hint_that_helps_several_is_told_once() -> None:
    facts = record(entrant(ONNX, timing([1.0] * 3)), entrant(ONNX, timing([1.0] * 3), num_threads=1))
    text = explain(decide(manifest(ONNX), MACHINE, Wish(num_threads=2), facts))
    assert text.count("runoff race --threads 2") == 1
