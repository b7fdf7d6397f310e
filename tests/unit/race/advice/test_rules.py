"""The rules of advice: every name in them exists, and every question has an answer."""

from __future__ import annotations

import itertools
import re

import pytest

from runoff.export.format_names import find_format
from runoff.export.targets import TARGETS as RUNTIMES
from runoff.race.advice.rules import HARDWARE, RULES, SENSITIVITIES, TARGETS, Rule
from runoff.types import Precision


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.hardware}-{rule.form}-{rule.precision}")
def test_rule_names_what_exists(rule: Rule) -> None:
    assert rule.hardware in HARDWARE
    assert rule.target in {target.id for target in RUNTIMES}
    assert set(rule.sensitivity) <= set(SENSITIVITIES) and rule.sensitivity
    assert rule.precision in {*Precision, "default"}
    assert rule.why and rule.source.startswith("https://")
    assert find_format(rule.form) is not None


def test_reasons_hold_no_figures() -> None:
    # Figures come from the record of the machine; 8 bits and fp16 are names.
    texts = [re.sub(r"\b(4|8|32|64-bit)( bits)?\b|fp16|fp32|bf16|TF32|x86", "", rule.why) for rule in RULES]
    assert [text for text in texts if re.search(r"\d", text)] == []


@pytest.mark.parametrize("asked", [*itertools.product(HARDWARE, SENSITIVITIES, TARGETS)], ids="-".join)
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_every_question_has_an_answer_that_this_version_can_make(asked: tuple[str, str, str], kind: str) -> None:
    hardware, sensitivity, targets = asked
    fitting = [
        rule
        for rule in RULES
        if rule.hardware == hardware
        and sensitivity in rule.sensitivity
        and targets in rule.targets
        and kind in rule.kinds
    ]
    assert fitting
