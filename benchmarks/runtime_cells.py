"""The rows and cells of the table of runtimes, and the files that keep them. Measures nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from runoff.backends import table
from runoff.backends.row import BackendRow
from runoff.models.folder import write_atomically
from runoff.types import Precision

SKIPPED_FORMATS = ("safetensors",)
"""Weights for a class that must be importable: nothing that a model is converted to."""
EXTRA_VARIANTS = {"torch": ("compile",)}
"""Ways to open the first format of a backend that get a row of their own."""
CORE = ("torch", "onnx", "openvino", "litert", "executorch")


@dataclass(frozen=True)
class Form:
    """A row of the table: a format at fp32, opened by the first backend that takes it, perhaps in another way."""

    backend: BackendRow
    format: str
    variant: str = ""

    @property
    def id(self) -> str:
        """The usual id of its package, with the variant."""
        return self.named(table.package_id(self.format, Precision.FP32))

    @property
    def is_core(self) -> bool:
        """Whether it is the plain form of one of the five backends that must take every model."""
        return self.backend.id in CORE and self.format == self.backend.formats[0] and not self.variant

    def named(self, package_id: str) -> str:
        """The id of the candidate that opens a package in this way."""
        return f"{package_id}+{self.variant}" if self.variant else package_id


class Conversion(msgspec.Struct, frozen=True):
    """What came of making a form: the package, or the reason why there is none; seconds that it took."""

    seconds: float
    package_id: str | None = None
    reason: str | None = None


class Cell(msgspec.Struct, frozen=True):
    """What is known of a form of a model. With a reason it is red: it cannot be made, run, or trusted."""

    reason: str | None = None
    converts: bool = False
    max_rel: float | None = None
    p50_ms: float | None = None
    spread: float | None = None
    size_bytes: int | None = None
    load_s: float | None = None


class Result(msgspec.Struct):
    """One model's part of the table, kept as a file."""

    model: str
    conversions: dict[str, Conversion] = {}
    cells: dict[str, Cell] = {}
    facts: dict[str, str] = {}
    raced_at: str | None = None
    threads: int = 1

    def is_static(self, form_id: str) -> bool:
        """Whether a form was made for one batch size."""
        done = self.conversions.get(form_id)
        return done is not None and (done.package_id or "").endswith("-b1")


def list_forms() -> list[Form]:
    """Every row of the table, in the order of the backends."""
    forms = []
    for row in table.rows().values():
        for place, format_id in enumerate(row.formats):
            if format_id in SKIPPED_FORMATS or table.backends_for(format_id)[0].id != row.id:
                continue
            forms.append(Form(row, format_id))
            if place == 0:
                forms += [Form(row, format_id, variant) for variant in EXTRA_VARIANTS.get(row.id, ())]
    return forms


def result_path(work: Path, name: str) -> Path:
    """Where the figures of a model are kept."""
    return work / f"{name}.json"


def read_result(work: Path, name: str) -> Result:
    """The figures of a model as far as they are known."""
    path = result_path(work, name)
    return msgspec.json.decode(path.read_bytes(), type=Result) if path.is_file() else Result(name)


def save(work: Path, result: Result) -> None:
    """Keep the figures of a model."""
    write_atomically(result_path(work, result.model), msgspec.json.format(msgspec.json.encode(result)) + b"\n")
