"""What a rule asks to ship, for one model: the package and candidate that it would be, and the commands that make it.

Pure: plans with the tables of formats and quantised forms; makes nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable

import msgspec

from runoff.backends import table
from runoff.backends.row import BackendRow
from runoff.errors import ExportError
from runoff.export.conversions import STEPS
from runoff.export.format_names import find_format
from runoff.export.forms import FORMS, Form
from runoff.export.plan import plan
from runoff.race.advice.profile import Profile
from runoff.race.advice.rules import Rule
from runoff.types import Precision


class Artifact(msgspec.Struct, frozen=True):
    """One form of a model.

    Attributes:
        candidate: as a race names it, without threads: `openvino-fp32+default`, `onnx-int8-static`.
        package: the package that is made for it.
        backend: what opens it here; None where no backend does.
        form: the quantised form that makes it; None where conversions do.
        extras: of Runoff that bring what making it needs and is not installed.
        commands: what makes it and races it, in order.
        notes: what to know of it.
    """

    candidate: str
    package: str
    format: str
    precision: Precision
    backend: str | None
    form: Form | None
    extras: tuple[str, ...]
    commands: tuple[str, ...]
    notes: tuple[str, ...] = ()


def artifact_for(rule: Rule, profile: Profile, model: str, is_installed: Callable[[str], bool]) -> Artifact | str:
    """The form that a rule asks for, or why this model cannot have it.

    Args:
        rule: what to ship.
        profile: the model.
        model: what the user calls it, for the commands.
        is_installed: whether a library can be imported, by its module.
    """
    format_id = find_format(rule.form)
    if format_id is None:
        return f"this version of runoff makes no {rule.form}"
    rows = table.backends_for(format_id)
    row = rows[0] if rows else None
    form = _form(row, rule.precision, profile)
    precision = Precision.FP32 if rule.precision == "default" else Precision(rule.precision)
    try:
        extras = _lacking_extras(format_id, precision, form, (profile, is_installed))
    except ExportError as error:
        return error.message
    package = _package(format_id, precision, form, profile, row)
    suffix = "+default" if rule.precision == "default" else ""
    commands = [f"pip install 'runoff[{','.join(extras)}]'"] if extras else []
    commands += [_make_command(rule.form, precision, form, profile, model)]
    if row is not None and rule.device != "browser":
        where, at = ("", "") if rule.device == "cpu" else (f"#{rule.device}", f" --device {rule.device}")
        commands.append(f"runoff race {shlex.quote(model)} --candidates {package}{suffix}{where}{at}")
    return Artifact(
        candidate=f"{package}{suffix}",
        package=package,
        format=format_id,
        precision=precision,
        backend=row.id if row else None,
        form=form,
        extras=extras,
        commands=tuple(commands),
        notes=_notes(form, profile, row),
    )


def _form(row: BackendRow | None, precision: str, profile: Profile) -> Form | None:
    """The quantised form of a backend at a precision: without data for linear models, else with calibrated ranges."""
    having = [form for form in FORMS if row is not None and (form.backend, form.precision) == (row.id, precision)]
    dynamic = [form for form in having if not form.reads_data]
    static = [form for form in having if form.reads_data]
    preferred = [*dynamic, *static] if profile.kind == "linear" else [*static, *dynamic]
    return preferred[0] if preferred else None


def _lacking_extras(
    format_id: str,
    precision: Precision,
    form: Form | None,
    facts: tuple[Profile, Callable[[str], bool]],
) -> tuple[str, ...]:
    """The extras that bring what the way there needs and this machine lacks.

    Raises:
        ExportError: no conversion leads there.
    """
    profile, is_installed = facts
    everything = {library for step in STEPS for library in step.libraries}
    wanted = (form.format, Precision.FP32) if form else (format_id, precision)
    path = plan(profile.packages, wanted, everything)
    needed = [(step.libraries, step.extra) for step in path.steps]
    needed += [(form.libraries, form.extra)] if form else []
    extras = [extra for libraries, extra in needed if not all(map(is_installed, libraries))]
    return tuple(dict.fromkeys(extras))


def _package(format_id: str, precision: Precision, form: Form | None, profile: Profile, row: BackendRow | None) -> str:
    """The id that the package is or will be given."""
    fixed = row is not None and row.static_batch and profile.takes_any_batch
    if form is not None and fixed:
        return f"{form.id}-b1"
    if form is not None:
        return form.id if profile.batch == "dynamic" else f"{form.id}-b{profile.batch}"
    present = next((p.package_id for p in profile.packages if (p.format, p.precision) == (format_id, precision)), None)
    if present is not None and not fixed:
        return present
    usual = table.package_id(format_id, precision) if row else f"{format_id}-{precision.value}"
    return f"{usual}-b1" if fixed else usual


def _make_command(word: str, precision: Precision, form: Form | None, profile: Profile, model: str) -> str:
    name = shlex.quote(model)
    if form is not None:
        data = " --data FOLDER" if form.reads_data and not profile.has_data else ""
        return f"runoff quantize {name} --precision {form.method} --backend {form.backend}{data}"
    at = "" if precision is Precision.FP32 else f" --precision {precision.value}"
    return f"runoff export {name} --to {word}{at}"


def _notes(form: Form | None, profile: Profile, row: BackendRow | None) -> tuple[str, ...]:
    notes = []
    if form is not None and form.reads_data and not profile.has_data:
        notes.append("the model has no data of its own: ranges from generated rows fit no real input")
    if row is not None and row.static_batch and (profile.takes_any_batch or profile.open_dimensions):
        fixed = ", ".join([*(["batch"] if profile.takes_any_batch else []), *profile.open_dimensions])
        notes.append(f"made for one size of {fixed}")
    return tuple(notes)
