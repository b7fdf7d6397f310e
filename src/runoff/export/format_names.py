"""Formats by the words of the user: their own names, those of their backends, and those that this version lacks.

Knows the tables only; what a model can become is `plan.py`'s.
"""

from __future__ import annotations

import shlex

from runoff.backends import table
from runoff.backends.built_in import ALIASES
from runoff.errors import ExportError, UnknownName, unknown_name
from runoff.export.conversions import STEPS
from runoff.export.forms import FORMS
from runoff.export.targets import TARGETS, Target
from runoff.types import Precision


def known_formats() -> list[str]:
    """Every format that some backend opens first or some step makes, by name."""
    return sorted({row.formats[0] for row in table.rows().values()} | {step.target_format for step in STEPS})


def find_format(word: str) -> str | None:
    """The format that a word means, or None where this version has none for that runtime of the field.

    Raises:
        UnknownName: the word means nothing; the message lists the formats and backends.
    """
    known = known_formats()
    if word in known:
        return word
    try:
        return table.row(word).formats[0]
    except UnknownName:
        if _absent(word) is None:
            raise unknown_name("format", word, sorted({*known, *table.rows()})) from None
        return None


def no_format(word: str) -> ExportError:
    """The error for a word that `find_format` answers None for: which runtime it means, and how that is reached."""
    target = _absent(word)
    title = target.title if target else word
    hint = f"{title} is reached by: {target.command}" if target and target.command else "runoff targets lists the ways"
    return ExportError(f"this version of runoff makes no files for {title}", hint=hint)


def quantize_hint(format_id: str | None, precision: Precision, model: str) -> str | None:
    """The command that makes a format at a precision which no conversion leads to, or None."""
    if any(step.result == (format_id, precision) for step in STEPS):
        return None
    form = next((form for form in FORMS if (form.format, form.precision) == (format_id, precision)), None)
    return f"runoff quantize {shlex.quote(model)} --precision {form.method} --backend {form.backend}" if form else None


def _absent(word: str) -> Target | None:
    name = ALIASES.get(word, word)
    return next((target for target in TARGETS if target.id == name), None)
