"""What a backend is as data: a row with its options and variants. Knows no runtime and no row."""

from __future__ import annotations

from typing import Any

import msgspec

from runoff.backends.protocol import PrecisionHint
from runoff.types import Device, Precision


class Option(msgspec.Struct, frozen=True):
    """One backend option: what it takes and what it does.

    Attributes:
        takes: a type name for people and errors: `bool`, `int`, `str`, `list`, `dict`.
        choices: the accepted values, where they are few.
        about: one line with the unit and the default.
    """

    takes: str
    about: str
    choices: tuple[str, ...] = ()


class Variant(msgspec.Struct, frozen=True):
    """A way to open a package that competes as a candidate of its own.

    Attributes:
        name: suffix of the candidate id; empty for the plain way.
        precision: the hint, see `SessionOptions.precision`.
        options: backend options of this variant.
        opt_in: raced only when named, such as one that is slow to start.
        formats: the package formats that can be opened in this way; None means all of the row.
        devices: the device kinds that it is for; None means all of the row.
        lowers_rest: its hint also means something to quantised packages: the precision of what is not quantised.
    """

    name: str
    precision: PrecisionHint = None
    options: dict[str, Any] = {}
    opt_in: bool = False
    formats: tuple[str, ...] | None = None
    devices: tuple[str, ...] | None = None
    lowers_rest: bool = False


class BackendRow(msgspec.Struct, frozen=True):
    """A backend as data.

    Attributes:
        id: the word of the user: `torch`, `onnx`, ...
        library: row of `environment.libraries.LIBRARIES` that must be installed; None for a plug-in, and for
            what no Python library brings: then opening a package tells what is missing.
        formats: package formats that it opens.
        target: `module:Class` of the backend.
        extra: the extra that brings the library.
        variants: the candidates that each package of this backend gives, the plain one first.
        static_batch: its packages are made for one batch size each, and for one size of every other dimension.
        platforms: values of `sys.platform` where it runs; empty means all.
        opt_in: a race makes its packages only when the backend or a package of it is named.
        one_run: why several sessions in one process compute no more than one, in words; None where they may.
        check: `module:function` that holds a package against its signature where the backend does not run.
        fits: `module:function` that says why a package cannot run in an environment, for packages bound to one: called
            with the manifest's entry, the `Environment` and the manifest; answers a reason and a hint, or None.
    """

    id: str
    title: str
    library: str | None
    formats: tuple[str, ...]
    devices: tuple[str, ...]
    precisions: tuple[Precision, ...]
    target: str
    extra: str | None = None
    options: dict[str, Option] = {}
    variants: tuple[Variant, ...] = (Variant(""),)
    static_batch: bool = False
    notes: str = ""
    platforms: tuple[str, ...] = ()
    check: str | None = None
    one_run: str | None = None
    opt_in: bool = False
    fits: str | None = None

    @property
    def first_device(self) -> Device:
        """Where its packages open unless told: the CPU, for a backend that drives it."""
        return Device(self.devices[0])

    def runs_on(self, platform: str) -> bool:
        """Whether the runtime exists for a value of `sys.platform`."""
        return not self.platforms or platform in self.platforms
