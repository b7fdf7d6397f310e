"""A finished race as plain JSON values, for programs.

Holds what the report shows, unrounded: decision, figures of every candidate, rejections, machine, notes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from runoff.race.report.headline import headline
from runoff.race.report.standings import all_notes, standings
from runoff.race.run import RaceResult


def result_data(result: RaceResult) -> dict[str, Any]:
    """The race as dicts, lists, strings and numbers; units are in the names of the fields."""
    record, decision = result.record, result.decision
    data: dict[str, Any] = {
        "model": decision.model,
        "headline": str(headline(result)),
        "objective": decision.wish.objective,
        "chosen": decision.chosen.id if decision.chosen else None,
        "serving": decision.serving,
        "raced_at": record.raced_at,
        "settings": record.settings,
        "decision": decision,
        "candidates": standings(result),
        "reference_metric": record.reference_metric,
        "unmade": record.unmade,
        "environment": {
            "fingerprint": record.fingerprint,
            "facts": record.facts,
            "runoff_version": result.environment.runoff_version,
        },
        "notes": all_notes(result),
    }
    converted: dict[str, Any] = msgspec.to_builtins(data)
    return converted
