"""Building blocks of the report's charts: SVG elements, log axes with ticks, markers, labels that keep apart.

Knows coordinates and text, and nothing of races. One unit is one CSS pixel at the chart's own width; colours are left
to the style sheet through classes, so that one chart serves light, dark and paper.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from runoff.race.report.figures import printable

Shape: TypeAlias = Literal["star", "diamond", "circle", "cross"]
Anchor: TypeAlias = Literal["start", "middle", "end"]

FONT_SIZE = 12.0
LETTER_WIDTH = 6.7
"""Of the label font at its size, generous: labels that seem to touch do not."""
_LINE_HEIGHT = 15.0
_RADIUS = 5.5


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def holds(self, other: Box) -> bool:
        """Whether the other lies within."""
        return (
            self.left <= other.left
            and self.top <= other.top
            and other.right <= self.right
            and other.bottom <= self.bottom
        )


@dataclass(frozen=True, slots=True)
class LogScale:
    """Positive values from `low` to `high`, logarithmically onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value; one outside the scale lands on its end."""
        inside = min(max(value, self.low), self.high)
        share = math.log(inside / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """At most about `count` round values on the scale: powers of ten, then 1-2-5, then even steps."""
        decades = math.log10(self.high / self.low)
        if decades < 1:
            return _even_ticks(self.low, self.high, count)
        for mantissas, stride in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3), ((1,), 4)):
            found = _decade_ticks(self.low, self.high, mantissas, stride)
            if len(found) <= count:
                return found
        return found


def log_scale(values: Iterable[float], start: float, end: float) -> LogScale:
    """A scale over the positive ones of some values with a margin of 6 % on both sides."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    # A single value, or values that are all alike, still need an axis around them.
    margin = max((high / low) ** 0.06, 1.05)
    return LogScale(low / margin, high * margin, start, end)


def _decade_ticks(low: float, high: float, mantissas: Sequence[int], stride: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    exponents = [exponent for exponent in range(first, last + 1) if exponent % stride == 0]
    values = [float(f"{mantissa}e{exponent}") for exponent in exponents for mantissa in mantissas]
    return [value for value in values if low <= value <= high]


def _even_ticks(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / max(1, count)
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step) + 1)]


def chart(width: float, height: float, label: str) -> ET.Element:
    """An empty chart with a description for those who cannot see it."""
    box = f"0 0 {width:g} {height:g}"
    svg = ET.Element("svg", {"viewBox": box, "width": f"{width:g}", "height": f"{height:g}", "role": "img"})
    svg.set("aria-label", printable(label))
    return svg


def element(parent: ET.Element, tag: str, kind: str, **numbers: float) -> ET.Element:
    """An element with a class; underscores in attribute names stand for hyphens."""
    attributes = {name.replace("_", "-"): f"{value:.2f}" for name, value in numbers.items()}
    return ET.SubElement(parent, tag, {"class": kind, **attributes})


def line(parent: ET.Element, kind: str, start: tuple[float, float], end: tuple[float, float]) -> ET.Element:
    """A straight line between two points."""
    return element(parent, "line", kind, x1=start[0], y1=start[1], x2=end[0], y2=end[1])


def text(parent: ET.Element, kind: str, at: tuple[float, float], words: str, anchor: Anchor = "start") -> ET.Element:
    """A line of text on its baseline."""
    label = element(parent, "text", kind, x=at[0], y=at[1])
    label.set("text-anchor", anchor)
    label.text = printable(words)
    return label


def group(parent: ET.Element, kind: str, tooltip: str) -> ET.Element:
    """A group whose text shows when the pointer rests on it."""
    found = ET.SubElement(parent, "g", {"class": kind})
    ET.SubElement(found, "title").text = " · ".join(printable(part) for part in tooltip.splitlines())
    return found


def marker(parent: ET.Element, shape: Shape, x: float, y: float) -> None:
    """A point as a shape, so that colour is not needed to tell points apart."""
    if shape == "circle":
        element(parent, "circle", "mark", cx=x, cy=y, r=_RADIUS - 0.5)
        return
    if shape == "cross":
        corners = [(x - 4.5, y - 4.5), (x + 4.5, y + 4.5), (x - 4.5, y + 4.5), (x + 4.5, y - 4.5)]
        path = "M{} {} L{} {} M{} {} L{} {}".format(*(f"{part:.2f}" for corner in corners for part in corner))
        ET.SubElement(parent, "path", {"class": "mark", "d": path})
        return
    corners = _star(x, y) if shape == "star" else [(x, y - 7), (x + 6, y), (x, y + 7), (x - 6, y)]
    outline = " ".join(f"{left:.2f},{top:.2f}" for left, top in corners)
    ET.SubElement(parent, "polygon", {"class": "mark", "points": outline})


def _star(x: float, y: float) -> list[tuple[float, float]]:
    radii = (9.0, 3.9)
    angles = [math.pi * index / 5 - math.pi / 2 for index in range(10)]
    return [(x + radii[i % 2] * math.cos(angle), y + radii[i % 2] * math.sin(angle)) for i, angle in enumerate(angles)]


def to_markup(svg: ET.Element) -> str:
    """The chart as markup for an HTML page; every text in it is escaped."""
    return ET.tostring(svg, encoding="unicode", short_empty_elements=True)


def text_width(words: str) -> float:
    """How wide a label is at most."""
    return len(words) * LETTER_WIDTH


@dataclass(frozen=True, slots=True)
class Point:
    """A point that wants a label: the long one where there is room, else the short one."""

    x: float
    y: float
    label: str
    short: str


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a label goes: the anchor of its baseline, and whether it needs a line to its point."""

    point: Point
    words: str
    x: float
    y: float
    anchor: Anchor
    box: Box
    is_far: bool


@dataclass(slots=True)
class Labeller:
    """Places labels one by one beside their points, off everything that is there already.

    Attributes:
        area: labels stay within it.
        taken: what labels keep off.
    """

    area: Box
    taken: list[Box] = field(default_factory=list)

    def avoid(self, points: Sequence[Point]) -> None:
        """Keep labels off the markers of these points."""
        self.taken += [Box(p.x - _RADIUS, p.y - _RADIUS, p.x + _RADIUS, p.y + _RADIUS) for p in points]

    def place(self, point: Point) -> Placed:
        """Place the label of a point; with no free place at all, the short one goes where it hides least."""
        near = [*_positions(point, point.label, 0)]
        far = [place for step in range(1, 6) for place in _positions(point, point.label, step)]
        short = [place for step in range(9) for place in _positions(point, point.short, step)]
        free = (place for place in (*near, *far, *short) if self._is_free(place.box))
        found = next(free, None)
        if found is None:
            inside = [place for place in short if self.area.holds(place.box)] or short
            found = min(inside, key=lambda place: self._hidden(place.box))
        self.taken.append(found.box)
        return found

    def _is_free(self, box: Box) -> bool:
        return self.area.holds(box) and self._hidden(box) == 0.0

    def _hidden(self, box: Box) -> float:
        return sum(box.overlap(other) for other in self.taken)


def _positions(point: Point, words: str, step: int) -> list[Placed]:
    """Places for a label: right, left, above and below its point, and the same further up and down."""
    width, away = text_width(words), _RADIUS + 4.5
    found = []
    lifts = (0.0,) if step == 0 else (-step * _LINE_HEIGHT, step * _LINE_HEIGHT)
    for lift in lifts:
        beside = abs(lift) < 1
        middle = point.y + lift
        # Straight above and below there is room beside the marker's height only.
        centred = [(point.x - width / 2, "middle")] if not beside else []
        sides = [(point.x + away, "start"), (point.x - away - width, "end")]
        for left, anchor in (*centred, *sides):
            box = Box(left, middle - _LINE_HEIGHT / 2, left + width, middle + _LINE_HEIGHT / 2)
            x = {"start": box.left, "middle": (box.left + box.right) / 2, "end": box.right}[anchor]
            found.append(Placed(point, words, x, middle + 4, _ANCHORS[anchor], box, is_far=step > 1))
    return found


_ANCHORS: dict[str, Anchor] = {"start": "start", "middle": "middle", "end": "end"}
