"""`runoff cache`: what is in the user cache, deleting from it, checking it."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from runoff.cli.console import console, print_json

if TYPE_CHECKING:
    from runoff.models.upkeep import CacheEntry

app = typer.Typer(help="Show, prune and check the user cache.", no_args_is_help=True)

_SIZES = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_AGES_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_entries(as_json: AsJson = False) -> None:
    """Show what is in the cache, the most recently used first."""
    from runoff import settings
    from runoff.models.description import human_bytes
    from runoff.models.upkeep import entries

    found = entries()
    total = sum(entry.bytes for entry in found)
    if as_json:
        print_json({"path": str(settings.cache_folder()), "bytes": total, "entries": _as_data(found)})
        return
    _print_entries(found)
    console().print(f"{len(found)} entries, {human_bytes(total)} in {settings.cache_folder()}", markup=False)


@app.command("prune")
def prune_entries(
    max_size: Annotated[
        str | None, typer.Option(help="Keep the most recently used up to this size, such as 20G.")
    ] = None,
    older_than: Annotated[str | None, typer.Option(help="Delete what was not used for so long, such as 30d.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete everything.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete from the cache; whatever is needed again is made or fetched again."""
    from runoff.models.description import human_bytes
    from runoff.models.upkeep import PrunePolicy, prune

    if max_size is None and older_than is None and not everything:
        raise typer.BadParameter("name --max-size, --older-than or --all")
    policy = PrunePolicy(
        everything=everything,
        older_than_s=_quantity(older_than, _AGES_S, "an age such as 30d") if older_than else None,
        max_bytes=int(_quantity(max_size, _SIZES, "a size such as 20G")) if max_size else None,
    )
    deleted = prune(policy)
    freed = sum(entry.bytes for entry in deleted)
    if as_json:
        print_json({"deleted": _as_data(deleted), "bytes": freed})
        return
    console().print(f"deleted {len(deleted)} entries, {human_bytes(freed)}", markup=False)


@app.command("verify")
def verify_entries(
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is damaged.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hold everything in the cache against its digests; exits with 1 when something is damaged and kept."""
    from runoff.models.upkeep import verify

    broken = verify(delete=delete)
    if as_json:
        print_json({"ok": not broken, "deleted": delete, "broken": _as_data(broken)})
    else:
        for finding in broken:
            console().print(f"{finding.entry.path}: {finding.problem}", style="red", markup=False)
        done = "deleted" if delete else "damaged"
        console().print(f"{len(broken)} entries {done}" if broken else "the cache is whole", markup=False)
    if broken and not delete:
        raise typer.Exit(1)


def _quantity(text: str, units: dict[str, int], expected: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]?)(?:i?b)?", text.strip().lower())
    if found is None or found[2] not in units:
        raise typer.BadParameter(f"{text!r} is not {expected}")
    return float(found[1]) * units[found[2]]


def _as_data(values: list[Any]) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(value) for value in values]


def _print_entries(found: list[CacheEntry]) -> None:
    from rich.table import Table
    from rich.text import Text

    from runoff.models.description import human_bytes

    table = Table("kind", "name", "last used")
    table.add_column("size", justify="right")
    for entry in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used_s))
        table.add_row(entry.kind, Text(entry.name), used, human_bytes(entry.bytes))
    console().print(table)
