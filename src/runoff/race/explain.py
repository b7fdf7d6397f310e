"""A decision in words: what was chosen, by which figures, and why each of the others was not.

Knows only `Decision`. The text is stable for the same decision, so that it can be tested by golden files.
"""

from __future__ import annotations

from runoff.race.decide import UNITS, Decision, Ranked

GUESS_HINT = "this choice was not measured on this machine: `runoff race` measures all candidates and picks the fastest"


def explain(decision: Decision) -> str:
    """The decision as text of a few lines, ranking first, then rejections, notes and hints."""
    lines = [_headline(decision)]
    if decision.serving is not None:
        shape = decision.serving
        lines.append(f"serve with: {shape}, p50 {shape.p50_ms:.3g} ms, p99 {shape.p99_ms:.3g} ms")
    if decision.ranking:
        lines += ["", "ranking", *_ranking(decision)]
    if decision.rejections:
        width = max(len(rejection.candidate_id) for rejection in decision.rejections)
        lines += ["", "rejected"]
        told: set[str | None] = {None}
        for rejection in decision.rejections:
            # The same hint helps several candidates: it is told where it comes first.
            hint = f" ({rejection.hint})" if rejection.hint not in told else ""
            told.add(rejection.hint)
            lines.append(f"  {rejection.candidate_id:<{width}}  {rejection.reason}{hint}")
    if decision.notes:
        lines += ["", *(f"note: {note}" for note in decision.notes)]
    if decision.basis == "guessed" and decision.chosen:
        lines += ["", f"hint: {GUESS_HINT}"]
    return "\n".join(lines)


def _headline(decision: Decision) -> str:
    if decision.chosen is None:
        return f"{decision.model}: nothing can be opened as wished"
    if decision.basis == "guessed":
        how = "guessed by the documented order"
    else:
        how = f"measured best by {decision.wish.objective} on this machine, raced at {decision.raced_at}"
    return f"{decision.model}: {decision.chosen.id}, {how}"


def _ranking(decision: Decision) -> list[str]:
    width = max(len(ranked.candidate.id) for ranked in decision.ranking)
    digits = len(str(len(decision.ranking)))
    return [
        f"  {place:>{digits}}  {_line(ranked, decision, width)}" for place, ranked in enumerate(decision.ranking, 1)
    ]


def _line(ranked: Ranked, decision: Decision, width: int) -> str:
    name = f"{ranked.candidate.id:<{width}}"
    if ranked.figure is None:
        return f"{name}  not measured"
    spread = f" ±{ranked.spread * 100:.1f} %" if ranked.spread is not None else ""
    parts = [f"{name}  {ranked.figure:.4g} {UNITS[decision.wish.objective]}{spread}"]
    if ranked.runs_at:
        parts.append(ranked.runs_at)
    if ranked.peak_memory_bytes is not None and decision.wish.objective != "memory":
        parts.append(f"{ranked.peak_memory_bytes / 2**20:.0f} MiB")
    if ranked.cold_start_s is not None and decision.wish.objective != "cold-start":
        parts.append(f"starts in {ranked.cold_start_s:.2f} s")
    if ranked.tied:
        parts.append("tie")
    return ", ".join(parts)
