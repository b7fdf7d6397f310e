"""The outcome of a race in one sentence: the winner, its figure, and how it compares with the reference.

Knows the decision's ranking; claims no difference that is within the noise, and says when nothing was measured.
"""

from __future__ import annotations

import msgspec

from runoff.race.rank import Ranked
from runoff.race.report.figures import rounded
from runoff.race.report.standings import decisive_batch, plain_reference
from runoff.race.run import RaceResult
from runoff.race.wish import UNITS, Objective

_COMPARED: dict[Objective, str] = {
    "latency": "times as fast as",
    "throughput": "times the throughput of",
    "cold-start": "times as fast to start as",
    "memory": "times the memory of",
    "size": "times the size of",
}
_ABOUT: dict[Objective, str] = {
    "cold-start": "from process start to first output",
    "memory": "of memory at the peak",
    "size": "on disk",
}


class Headline(msgspec.Struct, frozen=True):
    """A sentence in two parts, so that its subject can be set apart; joined by a space it reads as one.

    Attributes:
        ratio: of the winner to the reference's plain candidate, in the words of the objective; None without one.
    """

    subject: str
    predicate: str
    ratio: float | None = None

    def __str__(self) -> str:
        return f"{self.subject} {self.predicate}"


def headline(result: RaceResult) -> Headline:
    """The outcome in one sentence, or two when there is a tie."""
    decision = result.decision
    if decision.chosen is None:
        return Headline("No candidate is eligible:", "every one was rejected, each for the reason below.")
    winner = decision.ranking[0]
    if winner.figure is None:
        why = "is guessed by the documented order: no candidate that was measured here is eligible."
        return Headline(decision.chosen.id, why)
    reference = plain_reference(result)
    ratio = None if reference is None else _ratio(winner, reference, decision.wish.objective)
    sentence = f"wins with {_figure(winner, result)}{_comparison(winner, reference, ratio, result)}."
    rivals = [ranked.candidate.id for ranked in decision.ranking[1:] if ranked.tied]
    if winner.tied and rivals:
        sentence += f" {_rivals(rivals, decision.wish.objective)}: smaller memory, then faster start, settled it."
    return Headline(decision.chosen.id, sentence, ratio)


def _figure(winner: Ranked, result: RaceResult) -> str:
    objective = result.decision.wish.objective
    about = _ABOUT.get(objective)
    if about is None:
        spread = f", ±{winner.spread * 100:.1f} %" if winner.spread is not None else ""
        about = f"at batch {_batch(result)} (median{spread})"
    return f"{rounded(winner.figure or 0.0)} {UNITS[objective]} {about}"


def _batch(result: RaceResult) -> int:
    """The batch size of the figure: for throughput the one at which it was reached."""
    serving = result.decision.serving
    return serving.batch if serving is not None else decisive_batch(result)


def _comparison(winner: Ranked, reference: Ranked | None, ratio: float | None, result: RaceResult) -> str:
    if reference is None or ratio is None:
        return "; the reference's plain candidate has no figure to compare with"
    name = f"{reference.candidate.id}, the reference's plain candidate"
    if reference.candidate.id == winner.candidate.id:
        return "; it is the reference's own plain candidate"
    if winner.tied and reference.tied:
        how = "as small as" if result.decision.wish.objective == "size" else "within the noise of"
        return f", {how} {name} ({ratio:.2f} {_COMPARED[result.decision.wish.objective]} it)"
    return f", {rounded(ratio)} {_COMPARED[result.decision.wish.objective]} {name}"


def _ratio(winner: Ranked, reference: Ranked, objective: Objective) -> float | None:
    """How many times as fast, or as large: speeds and times are turned so that more is faster."""
    own, other = winner.figure, reference.figure
    if not own or not other:
        return None
    return other / own if objective in ("latency", "cold-start") else own / other


def _rivals(names: list[str], objective: Objective) -> str:
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    # A size is not measured with noise: only an equal one is a tie.
    return f"It is as small as {listed}" if objective == "size" else f"The difference to {listed} is within the noise"
