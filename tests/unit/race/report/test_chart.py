"""The charts: coordinates stay inside, ticks are round, labels keep apart, shapes tell verdicts apart."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.race_results import PACKAGES, entrant, full_race, race
from runoff.race.fidelity import Contract
from runoff.race.report.chart import Box, Labeller, LogScale, Point, log_scale, text_width
from runoff.race.report.distribution import distribution
from runoff.race.report.scatter import dots, limit_lines, scatter
from runoff.race.report.standings import standings
from runoff.race.run import RaceResult

_TORCH, _ONNX, _, _OPENVINO = PACKAGES
WIDTHS = (380.0, 960.0)


def _races() -> dict[str, RaceResult]:
    variants = ("", "compile", "bf16", "compile-bf16")
    crowd = [
        entrant(package, variant, threads, p50_ms=(1.0 + 0.01 * threads,), max_rel=2e-7)
        for package in (_TORCH, _ONNX, _OPENVINO)
        for variant in variants
        for threads in (1, 2, 4)
    ]
    return {
        "full": full_race(),
        "crowd": race(crowd),
        "one candidate": race([entrant(_TORCH, p50_ms=(1.0,))]),
        "far apart": race([entrant(_TORCH, p50_ms=(1e-4,)), entrant(_ONNX, p50_ms=(9e4,), max_rel=3.0)]),
        "below rounding": race([entrant(_TORCH, p50_ms=(1.0,)), entrant(_ONNX, p50_ms=(2.0,), max_rel=1e-14)]),
    }


def _scatter(result: RaceResult, width: float, contract: Contract | None = None) -> ET.Element:
    found = dots(standings(result), 1)
    return ET.fromstring(scatter(found, limit_lines(contract or Contract()), width))


def _distribution(result: RaceResult, width: float) -> ET.Element:
    return ET.fromstring(distribution(standings(result), 1, width))


def _extent(svg: ET.Element) -> list[tuple[float, float]]:
    """Every point that an element of the chart names, ends of texts and rectangles included."""
    points = []
    for node in svg.iter():
        given = {key: float(value) for key, value in node.attrib.items() if re.fullmatch(r"-?\d+\.\d\d", value)}
        if node.tag == "text" and "transform" not in node.attrib:
            share = {"start": 0.0, "middle": 0.5, "end": 1.0}[node.attrib["text-anchor"]]
            left = given["x"] - share * text_width(node.text or "")
            points += [(left, given["y"]), (left + text_width(node.text or ""), given["y"])]
        elif node.tag == "rect":
            right, bottom = given["x"] + given["width"], given["y"] + given["height"]
            points += [(given["x"], given["y"]), (right, bottom)]
        elif node.tag == "line":
            points += [(given["x1"], given["y1"]), (given["x2"], given["y2"])]
        elif node.tag == "circle":
            points.append((given["cx"], given["cy"]))
        for listed in (node.attrib.get("points"), node.attrib.get("d")):
            numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", listed or "")]
            points += list(zip(numbers[::2], numbers[1::2], strict=True))
    return points


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("draw", [_scatter, _distribution])
@pytest.mark.parametrize("name", _races())
def test_everything_lies_inside_the_chart(name: str, draw: object, width: float) -> None:
    assert callable(draw)
    svg = draw(_races()[name], width)
    _, _, right, bottom = (float(part) for part in svg.attrib["viewBox"].split())
    assert right == width
    points = _extent(svg)
    assert len(points) > 8
    assert [(x, y) for x, y in points if not (0 <= x <= right and 0 <= y <= bottom)] == []


def _marks(svg: ET.Element) -> dict[str, str]:
    """The tag of the marker of each point, by the class of its group."""
    groups = [group for group in svg.iter("g") if "point" in group.attrib["class"]]
    return {
        group.attrib["class"].split()[1]: next(n.tag for n in group if n.get("class") == "mark") for group in groups
    }


def test_verdicts_differ_by_shape_and_not_by_colour_only() -> None:
    svg = _scatter(full_race(), 960)
    marks = _marks(svg)
    assert set(marks) == {"won", "tie", "eligible", "rejected"}
    assert (marks["eligible"], marks["rejected"]) == ("circle", "path")
    corners = {
        group.attrib["class"]: len(mark.attrib["points"].split())
        for group in svg.iter("g")
        for mark in group.iter("polygon")
    }
    assert corners == {"point won": 10, "point tie": 4}
    assert not any("fill" in node.attrib or "stroke" in node.attrib for node in svg.iter())


def test_points_tell_their_figures_to_the_pointer() -> None:
    titles = [title.text for title in _scatter(full_race(), 960).iter("title")]
    assert "onnx-fp32@4 (won) · p50 0.500 ms ±1.1 % at batch 1 · largest relative error 4.0e-7" in titles
    assert any(title and "outside its contract" in title for title in titles)


def test_faster_is_further_left_and_more_exact_further_down() -> None:
    result = race([entrant(_TORCH, p50_ms=(2.0,)), entrant(_ONNX, p50_ms=(1.0,), max_rel=1e-5)])
    svg = _scatter(result, 960)
    star = next(svg.iter("polygon")).attrib["points"].split()
    circle = next(svg.iter("circle"))
    xs, ys = zip(*((float(x), float(y)) for x, y in (corner.split(",") for corner in star)), strict=True)
    assert max(xs) < float(circle.attrib["cx"])
    assert max(ys) < float(circle.attrib["cy"])


def test_exact_zero_lies_on_a_line_of_its_own() -> None:
    svg = _scatter(race([entrant(_TORCH, p50_ms=(2.0,)), entrant(_ONNX, p50_ms=(1.0,), max_rel=1e-5)]), 960)
    zero = next(node for node in svg.iter("line") if node.attrib["class"] == "zero")
    assert float(next(svg.iter("circle")).attrib["cy"]) == float(zero.attrib["y1"])
    without = _scatter(race([entrant(_ONNX, p50_ms=(1.0,), max_rel=1e-5)]), 960)
    assert not any(node.attrib.get("class") == "zero" for node in without.iter())


@pytest.mark.parametrize(
    ("contract", "names"),
    [
        (Contract(), ["exact (fp32) ≤ 0.0001", "close (16 bit) ≤ 0.05", "bounded (8 bit) ≤ 0.2"]),
        (Contract("close"), ["close, asked for ≤ 0.05"]),
        (Contract("close", 0.01), ["largest error asked for ≤ 0.01"]),
    ],
)
def test_limits_of_the_contract_are_lines(contract: Contract, names: list[str]) -> None:
    svg = _scatter(full_race(), 960, contract)
    assert [node.text for node in svg.iter("text") if node.attrib["class"] == "limit-name"] == names
    assert sum(node.attrib["class"] == "limit" for node in svg.iter("line")) == len(names)


def test_lines_of_the_distribution_are_sorted_by_median() -> None:
    names = [node.text for node in _distribution(full_race(), 960).iter("text") if node.attrib["class"] == "name"]
    assert names[:3] == ["onnx-bf16@4", "onnx-fp32@4", "openvino-fp32@4"]
    assert names[-1] == "torch-fp32@1"


def test_intervals_are_nested_around_the_median() -> None:
    for group in _distribution(full_race(), 960).iter("g"):
        parts = {node.attrib["class"]: node for node in group if node.tag in ("rect", "line")}
        whisker = next(node for node in group if node.attrib.get("class") == "whisker")
        spans = [(float(whisker.attrib["x1"]), float(whisker.attrib["x2"]))]
        for kind in ("most", "half"):
            left = float(parts[kind].attrib["x"])
            spans.append((left, left + float(parts[kind].attrib["width"])))
        median = float(parts["median"].attrib["x1"])
        for (outer_left, outer_right), (left, right) in itertools.pairwise(spans):
            assert outer_left <= left <= median <= right + 0.01
            assert right <= outer_right + 0.01


@given(low=st.floats(1e-9, 1e6), ratio=st.floats(1.05, 1e12), count=st.integers(4, 10))
def test_ticks_lie_on_the_scale_and_are_not_too_many(low: float, ratio: float, count: int) -> None:
    scale = LogScale(low, low * ratio, 0, 100)
    ticks = scale.ticks(count)
    assert len(ticks) <= count + 2
    assert ticks == sorted(set(ticks))
    assert all(0 <= scale(tick) <= 100 for tick in ticks)
    assert all(low * 0.999 <= tick <= low * ratio * 1.001 for tick in ticks)


def test_ticks_are_round_numbers() -> None:
    assert LogScale(0.4, 60, 0, 100).ticks(8) == [0.5, 1, 2, 5, 10, 20, 50]
    assert LogScale(0.9, 1.6, 0, 100).ticks(8) == pytest.approx([0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6])
    assert LogScale(1e-8, 1, 0, 100).ticks(5) == [1e-8, 1e-6, 1e-4, 1e-2, 1]


@pytest.mark.parametrize("values", [[], [0.0], [3.0], [3.0, 3.0], [1e-9, 1e9]])
def test_scale_has_an_extent_whatever_the_values(values: list[float]) -> None:
    scale = log_scale(values, 10, 90)
    assert scale.low < scale.high
    assert all(10 < scale(value) < 90 for value in values if value > 0)


def test_labels_of_a_crowd_do_not_cover_each_other() -> None:
    points = [Point(300 + 14 * (n % 5), 200 + 14 * (n // 5), f"torch-fp32+compile@{n}", str(n)) for n in range(20)]
    labeller = Labeller(Box(60, 10, 900, 400))
    labeller.avoid(points)
    placed = [labeller.place(point) for point in points]
    overlaps = [a.box.overlap(b.box) for a, b in itertools.combinations(placed, 2)]
    assert max(overlaps) == 0
    assert all(labeller.area.holds(label.box) for label in placed)


def test_label_is_the_number_where_the_name_has_no_room() -> None:
    labeller = Labeller(Box(0, 0, 60, 60))
    placed = labeller.place(Point(20, 30, "a-name-that-is-far-too-long", "7"))
    assert placed.words == "7"
    assert labeller.area.holds(placed.box)
