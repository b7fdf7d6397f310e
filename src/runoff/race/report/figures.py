"""Figures as text: the same digits in the terminal, in the report and in sentences.

Knows numbers only. A figure that was not measured is a dash.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

MISSING = "\N{EN DASH}"
MIB = 2**20
_SIGNIFICANT = 3
_MAX_DECIMALS = 5
_MINUS = "\N{MINUS SIGN}"


def decimals_for(values: Iterable[float | None], significant: int = _SIGNIFICANT) -> int:
    """Decimals that show the smallest of a column's values with that many significant digits, at most five.

    One number of decimals for a whole column keeps its points below each other.
    """
    known = [abs(value) for value in values if value]
    if not known:
        return 0
    magnitude = math.floor(math.log10(min(known)))
    return max(0, min(_MAX_DECIMALS, significant - 1 - magnitude))


def fixed(value: float | None, decimals: int) -> str:
    """A value with fixed decimals and grouped thousands."""
    return MISSING if value is None else f"{value:,.{decimals}f}"


def rounded(value: float) -> str:
    """A value that stands alone, with three significant digits."""
    return fixed(value, decimals_for([value]))


def scientific(value: float | None) -> str:
    """An error such as `4.0e-7`; exactly zero is `0`."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def percent(fraction: float | None, decimals: int = 1) -> str:
    """A fraction as per cent, without the sign of the unit."""
    return MISSING if fraction is None else f"{fraction * 100:.{decimals}f}"


def points(difference: float | None) -> str:
    """A difference of two fractions in percentage points, always with its sign unless it is none."""
    if difference is None:
        return MISSING
    text = f"{difference * 100:+.2f}".replace("-", _MINUS)
    return "0.00" if text.lstrip("+" + _MINUS) == "0.00" else text


def mebibytes(size_bytes: int | None) -> float | None:
    """Bytes as MiB."""
    return None if size_bytes is None else size_bytes / MIB


def printable(text: str) -> str:
    """The text without control characters: what a crashed runtime said last may hold terminal codes."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
