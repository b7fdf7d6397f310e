"""What became of the choice that another environment made: a sentence on why this one chooses differently.

Pure but for reading the newest record of another environment; measures nothing and decides nothing.
"""

from __future__ import annotations

from runoff.environment.describe import Environment
from runoff.models.folder import ModelFolder
from runoff.race.decide import Decision, outside_contract
from runoff.race.rank import Ranked, cost, rank
from runoff.race.record import Record, other_records, package_sha256
from runoff.race.wish import UNITS, Wish


def choice_elsewhere(folder: ModelFolder, environment: Environment, decision: Decision) -> list[str]:
    """Say what the newest other environment had chosen, and why it is not what is chosen here.

    Args:
        folder: the model.
        environment: this machine.
        decision: made here; of one that was asked for a backend, a precision or threads nothing is said.

    Returns:
        a sentence, or nothing where no other environment raced this model or the choice is the same and measured.
    """
    wish = decision.wish
    if wish.backends or wish.precisions or wish.num_threads is not None:
        return []
    newest = next(other_records(folder.root, environment.fingerprint), None)
    if newest is None or newest.model_sha256 != folder.digest():
        return []
    there = _best(newest, folder, wish)
    if there is None or there.figure is None:
        return []
    before = f"there {there.candidate.id} was best by {wish.objective}, {there.figure:.4g} {UNITS[wish.objective]}"
    if decision.chosen is not None and decision.chosen.package_id == there.candidate.package_id:
        same = decision.chosen.variant == there.candidate.variant
        if same and decision.basis == "measured":
            return []
        return [f"{before}; here the same package is {decision.basis}: {decision.chosen.id}"]
    return [f"{before}; here {_fate(there, decision)}"]


def _best(record: Record, folder: ModelFolder, wish: Wish) -> Ranked | None:
    """The best of a record under a wish, of the packages that are still as they were."""
    manifest, batch = folder.manifest, record.settings.batches[0]
    eligible = []
    for entrant in record.entrants:
        entry = manifest.package(entrant.candidate.package_id)
        current = entry is not None and package_sha256(entry) == entrant.package_sha256
        if (
            current
            and entrant.failure is None
            and entrant.candidate.device == wish.device
            and outside_contract(entrant, record, manifest.reference, wish.contract) is None
            and cost(entrant, wish, batch) is not None
        ):
            eligible.append(entrant)
    return next(iter(rank(eligible, wish, batch)), None)


def _fate(there: Ranked, decision: Decision) -> str:
    """What this environment says of the candidate that was best elsewhere."""
    name = there.candidate.id
    plain = name.partition("@")[0]
    for rejection in decision.rejections:
        if rejection.candidate_id in (name, plain, there.candidate.package_id):
            return f"it is rejected: {rejection.reason}"
    for ranked in decision.ranking:
        if ranked.candidate.id.partition("@")[0] != plain:
            continue
        if ranked.figure is None:
            return "it was not measured"
        return f"{ranked.candidate.id} takes {ranked.figure:.4g} {UNITS[decision.wish.objective]} and is not the best"
    return "it was not measured"
