"""The table of backends: the built-in rows and those of plug-ins, listable without importing any runtime.

`load` is the one function that turns a dotted name into code; nothing imports a backend's file.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, cast

from runoff.backends.built_in import ALIASES, BUILT_IN
from runoff.backends.protocol import Backend, SessionOptions
from runoff.backends.row import BackendRow
from runoff.errors import BackendNotInstalled, RunoffError, RuntimeLoadError, UnknownName, unknown_name
from runoff.types import Precision

ENTRY_POINTS = "runoff.backends"


def rows() -> Mapping[str, BackendRow]:
    """Every backend by id, built-in ones first, then those of the entry-point group `runoff.backends`."""
    return _all_rows()[0]


def broken_plugins() -> Mapping[str, str]:
    """Entry points that could not be read, by name, with the reason."""
    return _all_rows()[1]


def forget_plugins() -> None:
    """Read the entry points again when they are next asked for, because what is installed has changed."""
    _all_rows.cache_clear()


@cache
def _all_rows() -> tuple[Mapping[str, BackendRow], Mapping[str, str]]:
    found = {row.id: row for row in BUILT_IN}
    broken: dict[str, str] = {}
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            row = point.load()
        except Exception as error:  # noqa: BLE001 - a broken plug-in is a reason in the table, not a crash
            broken[point.name] = f"{type(error).__name__}: {error}"
            continue
        if not isinstance(row, BackendRow):
            broken[point.name] = f"{point.value} is a {type(row).__name__}, expected a BackendRow"
        elif row.id in found:
            broken[point.name] = f"the id {row.id!r} is taken"
        else:
            found[row.id] = row
    return MappingProxyType(found), MappingProxyType(broken)


def row(name: str) -> BackendRow:
    """The row of a backend by id or by a name that the field uses for it (`pytorch`, `ort`, ...).

    Raises:
        UnknownName: no such backend; the message lists the known ones.
    """
    wanted = ALIASES.get(name.lower(), name.lower())
    found = rows().get(wanted)
    if found is not None:
        return found
    if wanted in broken_plugins():
        raise UnknownName(f"the plug-in of backend {name!r} is broken: {broken_plugins()[wanted]}")
    raise unknown_name("backend", name, list(rows()))


def load(target: str) -> Any:
    """The object that `module:name` names. The only place that imports code by name.

    Raises:
        BackendNotInstalled: a library that the module needs is missing or broken.
    """
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except RunoffError:
        raise
    except Exception as error:
        raise BackendNotInstalled(f"cannot load {target}: {type(error).__name__}: {error}") from error


def backend(backend_id: str) -> Backend:
    """Load a backend.

    Raises:
        UnknownName: no such backend.
        BackendNotInstalled: its library is missing or broken; the hint names the extra.
    """
    found = row(backend_id)
    try:
        return cast("Backend", load(found.target)())
    except BackendNotInstalled as error:
        hint = f"pip install 'runoff[{found.extra}]'" if found.extra else None
        raise BackendNotInstalled(f"backend {found.id!r} is not usable: {error.message}", hint=hint) from error


def backends_for(format_id: str) -> list[BackendRow]:
    """The backends that open a format, in the documented order."""
    return [found for found in rows().values() if format_id in found.formats]


def package_stem(format_id: str) -> str:
    """What the ids of packages in a format begin with: `torch` for a backend's first one, else such as `torch-aoti`."""
    found = backends_for(format_id)[0]
    if format_id == found.formats[0]:
        return found.id
    return format_id if format_id.startswith(f"{found.id}-") else f"{found.id}-{format_id}"


def package_id(format_id: str, precision: Precision) -> str:
    """The usual id of a package, such as `onnx-fp32` or `torch-aoti-bf16`."""
    return f"{package_stem(format_id)}-{precision.value}"


_TYPES: dict[str, type | tuple[type, ...]] = {
    "bool": bool,
    "int": int,
    "float": (int, float),
    "str": str,
    "list": (list, tuple),
    "dict": dict,
}


def check_options(backend_id: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the backend does not have, or values that they do not take.

    Raises:
        UnknownName: an unknown option or choice; the message lists the known ones.
    """
    found = row(backend_id)
    for name, value in options.items():
        option = found.options.get(name)
        if option is None:
            raise unknown_name(f"option of backend {found.id!r}", name, list(found.options))
        fits = isinstance(value, _TYPES[option.takes]) and not (option.takes == "int" and isinstance(value, bool))
        if not fits:
            raise UnknownName(f"option {name!r} of backend {found.id!r} takes {option.takes}, not {value!r}")
        if option.choices and value not in option.choices:
            raise unknown_name(f"value of option {name!r}", value, list(option.choices))


def check_session(backend_id: str, options: SessionOptions) -> None:
    """What every backend holds its session options against before it opens anything.

    Raises:
        UnknownName: an unknown option or choice; see `check_options`.
        RuntimeLoadError: a device kind that the backend does not drive, or a number of threads below 1.
    """
    found = row(backend_id)
    check_options(backend_id, options.backend)
    if options.device.kind not in found.devices:
        raise RuntimeLoadError(
            f"backend {found.id!r} has no device {options.device}; it drives {', '.join(found.devices)}",
            hint="choose one of these, or another backend",
        )
    if options.num_threads is not None and options.num_threads < 1:
        raise RuntimeLoadError(f"num_threads is {options.num_threads}, expected at least 1")
