"""The table of targets: what it names exists, and it claims no more than the tests do."""

from __future__ import annotations

import sys

import pytest

from meta.repository import ROOT
from runoff.backends import table
from runoff.export.conversions import STEPS
from runoff.export.targets import TARGETS, check_targets, list_targets

CASES = (ROOT / "tests" / "conformance" / "test_session.py").read_text()


def test_ways_lead_to_what_exists() -> None:
    assert check_targets() == []


def test_ids_are_unique() -> None:
    assert len({target.id for target in TARGETS}) == len(TARGETS)


def test_every_backend_is_a_target() -> None:
    assert set(table.rows()) <= {target.through for target in TARGETS if target.way == "backend"}


@pytest.mark.parametrize("target", [target for target in TARGETS if target.proven == "run"], ids=lambda t: t.id)
def test_what_is_said_to_run_is_in_the_conformance_body(target) -> None:
    form = {"torch": "torch-export", "ort-web": "web"}.get(target.id, target.id)
    assert f'Case("{target.through}", "{form}' in CASES


@pytest.mark.parametrize("target", [target for target in TARGETS if target.command], ids=lambda t: t.id)
def test_command_exports_to_something_that_a_step_makes(target) -> None:
    word = target.command.split()[-1]
    formats = {step.target_format for step in STEPS}
    assert word in formats or table.row(word).formats[0] in formats


def test_here_says_what_is_installed_and_claims_no_run() -> None:
    states = {state.target.id: state.here for state in list_targets(lambda: ("CPUExecutionProvider",))}
    assert states["onnx"] == "ready"
    assert states["cuda"] == "not installed"
    assert states["snpe"] == states["tvm"] == "unknown"
    assert states["coreml"] == ("other platform" if sys.platform != "darwin" else "ready")
    assert {state.here for state in list_targets(lambda: ("QNNExecutionProvider",)) if state.target.id == "qnn"} == {
        "ready"
    }
