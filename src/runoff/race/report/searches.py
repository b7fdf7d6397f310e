"""The searches of layers to keep, for the report: what was ranked, what was tried, what it came to.

Reads the logs that lie in quantised packages; knows no HTML and searches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from runoff.errors import ModelError
from runoff.export.quantize import read_log
from runoff.export.sensitivity import BROKEN, SearchLog, Verdict
from runoff.models.folder import ModelFolder, Package
from runoff.race.report.figures import fixed, scientific

_PERCENT = ("accuracy", "top1", "top5")


@dataclass(frozen=True, slots=True)
class Search:
    """The search behind one package.

    Attributes:
        outcome: a sentence for each thing that came of it.
        ranking: layers, and the error when nothing else is quantised; the most sensitive first.
        trials: how many layers were kept, the figures, and the verdict.
    """

    package_id: str
    outcome: tuple[str, ...]
    ranking: tuple[tuple[str, str], ...] = ()
    trials: tuple[tuple[str, str, str], ...] = ()


def searches(folder: ModelFolder) -> tuple[Search, ...]:
    """The search of each package that needed one, in the order of the manifest."""
    return tuple(found for package in folder.packages if (found := _search(package)) is not None)


def _search(package: Package) -> Search | None:
    try:
        log = read_log(package)
    except ModelError as error:
        return Search(package.id, (f"its log cannot be read: {error.message}",))
    if log is None:
        return None
    return Search(
        package.id,
        tuple(_outcome(log)),
        tuple((", ".join(ranked.layers), _error(ranked.error)) for ranked in log.ranking),
        tuple((str(trial.num_kept), _figures(trial.figures), trial.outside or "within") for trial in log.trials),
    )


def _outcome(log: SearchLog) -> list[str]:
    lines = [f"With all of {log.num_layers} layers quantised: {_stood(log.before)}."]
    if log.after is not None:
        kept = f"{len(log.kept)} layer{'s' if len(log.kept) != 1 else ''} kept in fp32, {', '.join(log.kept)}"
        lines.append(f"With {kept}: {_stood(log.after)}.")
    lines.append(f"Method: {log.method}; {fixed(log.seconds, 1)} s.")
    if not log.complete:
        lines.append("The time did not suffice to rank every layer.")
    return lines


def _stood(verdict: Verdict) -> str:
    return f"{_figures(verdict.figures)}; {verdict.outside or 'within the contract'}"


def _figures(figures: dict[str, float]) -> str:
    """Figures by name; without any the model answered NaN or infinity."""
    told = (
        f"{name} {value * 100:.2f} %" if name in _PERCENT else f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in figures.items()
    )
    return ", ".join(told) or "NaN or infinite"


def _error(error: float) -> str:
    return "NaN or infinite" if error >= BROKEN else scientific(error)
