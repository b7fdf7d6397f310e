"""What the quantisers share: layers as stretches of a graph, calibration rows as feeds, and their failures as errors.

A layer is a convolution or matrix product with what follows it up to the next one: keeping it keeps all of that.
Knows no runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from runoff.errors import ExportError, InputError
from runoff.export.step import Quantization
from runoff.models.arrays import Arrays, InputCheck, read_npz
from runoff.models.samples import take_rows
from runoff.types import Signature

_MIN_LINEAR_SHARE = 0.25
"""The share of the weights that must lie in linear layers, for methods that quantise nothing else."""


def group_layers(nodes: Iterable[tuple[str, bool]]) -> dict[str, tuple[str, ...]]:
    """Each layer's name with the names of its nodes; what stands before the first layer belongs to it.

    Args:
        nodes: in the order of the graph, each with whether a layer begins there.
    """
    found: dict[str, list[str]] = {}
    before: list[str] = []
    current: list[str] | None = None
    for name, begins in nodes:
        if begins:
            current = found.setdefault(name, before)
            before = []
        (before if current is None else current).append(name)
    return {name: tuple(members) for name, members in found.items()}


def kept_nodes(layers: dict[str, tuple[str, ...]], kept: Iterable[str]) -> set[str]:
    """The nodes of the layers that are kept; a name that is no layer's stands for nothing."""
    return {node for layer in kept for node in layers.get(layer, ())}


def read_feeds(wanted: Quantization, size: int, signature: Signature | None = None) -> list[Arrays]:
    """The calibration rows, `size` at a time; the last feed is filled up from the start.

    Args:
        wanted: names the file of rows, and the inputs that have a row for each sample.
        size: rows of one feed.
        signature: what one feed must fit, for files that are made for one size of every dimension.

    Raises:
        ExportError: there are no rows, or they do not fit.
    """
    if wanted.data is None:
        raise ExportError("int8-static needs calibration data")
    arrays = read_npz(Path(wanted.data))
    total = max((len(arrays[name]) for name in wanted.batched), default=1)
    starts = range(0, total, size)
    feeds: list[Arrays] = [
        take_rows(arrays, wanted.batched, np.arange(start, start + size) % total) for start in starts
    ]
    if signature is not None:
        try:
            InputCheck(signature)(feeds[0])
        except InputError as error:
            raise ExportError(
                f"the calibration rows do not fit what the package is made for: {error.message}",
                hint="hand in rows of these sizes, or make the fp32 package for the sizes of the rows",
            ) from error
    return feeds


def check_linear_share(source_id: str, method: str, convolutions: int, linear: int) -> None:
    """Refuse a method for linear layers where most weights lie in convolutions.

    Args:
        source_id: the package that is to be quantised.
        method: for people.
        convolutions, linear: how many weights lie in them.

    Raises:
        ExportError: less than a quarter of the weights lie in linear layers.
    """
    share = linear / max(1, convolutions + linear)
    if share < _MIN_LINEAR_SHARE:
        raise ExportError(
            f"{method} is for models of linear layers: {source_id} has {share * 100:.0f} % of its weights in them, "
            "the rest in convolutions",
            hint="int8-static quantises convolutions too",
        )


@contextmanager
def reported(tool: str, source_id: str, finding: Callable[[Exception], str]) -> Iterator[None]:
    """Turn what a quantiser raises within into an ExportError that names it and the package.

    Args:
        tool: the quantiser, for people.
        source_id: the package that it was given.
        finding: what matters of the library's message.
    """
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        why = finding(error)[:300]
        raise ExportError(f"{tool} cannot quantise {source_id}: {type(error).__name__}: {why}") from error


def on_one_line(error: Exception) -> str:
    """The whole message, its lines joined."""
    return " ".join(str(error).split())


def last_line(error: Exception) -> str:
    """The last line of the message, where some libraries say what was wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def kept_of(layers: Sequence[str] | dict[str, tuple[str, ...]], wanted: Quantization) -> tuple[str, ...]:
    """The layers that were asked to be kept, in the order of the graph."""
    return tuple(layer for layer in layers if layer in wanted.kept)
