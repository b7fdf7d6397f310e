"""`runoff verify --run`: the packages of a model answer its golden pair on this machine, as a table or as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer

from runoff.cli.console import console, print_json
from runoff.cli.source import fetching
from runoff.errors import NoCandidate, unknown_name

if TYPE_CHECKING:
    from runoff.models.manifest import FileEntry, Manifest, PackageEntry
    from runoff.models.sources import SourceOptions
    from runoff.race.selfcheck import Replay

_STYLES = {"ok": "green", "refused": "red"}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which packages answer: those of some backends, or one by its id; all that can run here unless named."""

    backends: tuple[str, ...] = ()
    package: str | None = None

    def entries(self, manifest: Manifest) -> list[PackageEntry]:
        """The chosen packages.

        Raises:
            UnknownName: a backend that does not exist, or a package that the model has not.
        """
        from runoff.backends import table

        wanted = [table.row(name).id for name in self.backends]
        chosen = [entry for entry in manifest.packages if not wanted or entry.backend in wanted]
        if self.package is not None:
            chosen = [entry for entry in chosen if entry.id == self.package]
        if not chosen:
            known = [entry.id for entry in manifest.packages]
            raise unknown_name("package", self.package or f"of {', '.join(wanted)}", known)
        return chosen


def replay(model: str, wanted: SourceOptions, choice: Choice, *, as_json: bool) -> None:
    """Fetch what is chosen, replay it, print it, and leave with 1 when a package is refused.

    Raises:
        NoCandidate: packages were named and none of them can run here, or no package at all can.
    """
    from runoff.environment.describe import describe_environment
    from runoff.export.find import find_folder
    from runoff.race.selfcheck import replay_packages

    def files(manifest: Manifest) -> Iterator[FileEntry]:
        return manifest.files_of([entry.id for entry in choice.entries(manifest)])

    with fetching(replace(wanted, files=files)) as options:
        folder = find_folder(model, options)
    packages = [folder.package(entry.id) for entry in choice.entries(folder.manifest)]
    found = replay_packages(folder, describe_environment(), packages)
    refused = sum(each.status == "refused" for each in found)
    right = sum(each.status == "ok" for each in found)
    if as_json:
        print_json({"path": str(folder.root), "ok": right > 0 and not refused, "packages": found})
    else:
        _print_table(found)
        console().print(
            f"{right} of {len(found)} packages answer the golden pair here, {refused} refused", markup=False
        )
    if refused:
        raise typer.Exit(1)
    if not right and as_json:
        raise typer.Exit(1)
    if not right:
        reasons = {each.package_id: each.reason or "" for each in found}
        raise NoCandidate("none of these packages can run here", rejections=reasons, hint=_first_hint(found))


def _first_hint(found: list[Replay]) -> str | None:
    return next((each.hint for each in found if each.hint), None)


def _print_table(found: list[Replay]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("package", "runs at", "verdict", "output", "error", "limit", "why")
    for each in found:
        worst = each.worst
        figures = (
            (worst.output, f"{worst.max_rel:.1e}", f"{worst.max_rel_limit:.1e}") if worst is not None else ("", "", "")
        )
        reason = "; ".join(text for text in (each.reason, each.hint if each.status != "refused" else None) if text)
        table.add_row(
            Text(each.package_id),
            each.runs_at.value if each.runs_at else "",
            Text(each.status, style=_STYLES.get(each.status, "")),
            *map(Text, figures),
            Text(reason),
        )
    console().print(table)
