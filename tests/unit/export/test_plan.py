from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.errors import ExportError
from runoff.export.conversions import STEPS, Step
from runoff.export.plan import Available, plan, reachable
from runoff.types import Precision

FP32, FP16 = Precision.FP32, Precision.FP16
ALL = {library for step in STEPS for library in step.libraries}


def _have(format_id: str, precision: Precision = FP32) -> Available:
    return Available(f"{format_id}-{precision.value}", format_id, precision)


@pytest.mark.parametrize(
    ("available", "wanted", "expected"),
    [
        ([_have("hf")], ("onnx", FP32), ["hf at fp32 -> torch-export at fp32", "torch-export at fp32 -> onnx at fp32"]),
        ([_have("hf", FP16)], ("torch-export", FP32), ["hf at fp16 -> torch-export at fp32"]),
        ([_have("torch-export")], ("openvino", FP32), ["torch-export at fp32 -> openvino at fp32"]),
        ([_have("torch-export"), _have("onnx")], ("openvino", FP32), ["onnx at fp32 -> openvino at fp32"]),
        ([_have("safetensors")], ("torch-export", FP32), ["safetensors at fp32 -> torch-export at fp32"]),
        ([_have("onnx")], ("onnx", FP16), ["onnx at fp32 -> onnx at fp16"]),
        ([_have("onnx")], ("onnx", FP32), []),
    ],
)
def test_path_is_the_documented_one(
    available: list[Available], wanted: tuple[str, Precision], expected: list[str]
) -> None:
    assert [str(step) for step in plan(available, wanted, ALL).steps] == expected


def test_error_names_library_and_extra_when_one_is_missing() -> None:
    with pytest.raises(ExportError, match="missing onnxscript") as caught:
        plan([_have("torch-export")], ("onnx", FP32), ALL - {"onnxscript"})
    assert caught.value.hint == "pip install 'runoff[export]'"


def test_path_goes_around_a_missing_library() -> None:
    found = plan([_have("torch-export")], ("openvino", FP32), {"torch", "openvino"})
    assert [str(step) for step in found.steps] == ["torch-export at fp32 -> openvino at fp32"]


def test_error_names_what_can_be_reached_when_there_is_no_path() -> None:
    with pytest.raises(ExportError, match="no conversion leads from onnx at fp32 to torch-export at fp32") as caught:
        plan([_have("onnx")], ("torch-export", FP32), ALL)
    assert caught.value.hint == (
        "what can be made from it here: iree at fp32, onnx at fp16, openvino at fp32, tfjs at fp32, trt at fp16, "
        "trt at fp32, web at fp32"
    )


def test_error_says_nothing_can_be_reached_when_no_library_is_installed() -> None:
    with pytest.raises(ExportError) as caught:
        plan([_have("onnx")], ("torch-export", FP32), set())
    assert caught.value.hint == "what can be made from it here: nothing"


@st.composite
def _graphs(draw: st.DrawFn) -> tuple[list[Step], list[Available], tuple[str, Precision]]:
    formats = draw(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=6, unique=True))
    pairs = list(itertools.permutations(formats, 2))
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=12))
    steps = [Step(a, FP32, b, FP32, "m:f", (), "x", draw(st.integers(1, 5))) for a, b in chosen]
    start = draw(st.lists(st.sampled_from(formats), min_size=1, max_size=2, unique=True))
    return steps, [_have(name) for name in start], (draw(st.sampled_from(formats)), FP32)


@given(_graphs())
def test_path_is_connected_and_cheapest(graph: tuple[list[Step], list[Available], tuple[str, Precision]]) -> None:
    steps, available, wanted = graph
    start = {(package.format, package.precision) for package in available}
    # Bellman-Ford, as an oracle that shares nothing with the planner.
    costs = dict.fromkeys(start, 0)
    for _ in range(len(steps) + 1):
        for step in steps:
            if step.source in costs and costs[step.source] + step.cost < costs.get(step.result, 10**9):
                costs[step.result] = costs[step.source] + step.cost
    assert reachable(available, steps) == set(costs) - start
    if wanted not in costs:
        with pytest.raises(ExportError):
            plan(available, wanted, set(), steps)
        return
    found = plan(available, wanted, set(), steps)
    first = next(package for package in available if package.package_id == found.package_id)
    places = [(first.format, first.precision), *(step.result for step in found.steps)]
    assert [step.source for step in found.steps] == places[:-1]
    assert places[-1] == wanted
    assert found.cost == costs[wanted]
