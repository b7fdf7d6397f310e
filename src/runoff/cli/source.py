"""The options of every verb that names a model: revision, digest, and a line on the terminal while it is fetched."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from runoff.cli.console import console

if TYPE_CHECKING:
    from runoff.models.sources import SourceOptions

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="A folder, file, URL, hub id, name in the registry, ...")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
Sha256 = Annotated[str | None, typer.Option(help="Digest that a file or URL must have.")]


@contextmanager
def fetching(options: SourceOptions | None = None) -> Iterator[SourceOptions]:
    """The options with a progress line on standard error while a URL is fetched; without one off a terminal."""
    from runoff.models.sources import SourceOptions

    options = options or SourceOptions()
    if not sys.stderr.isatty():
        yield options
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as line:
        tasks: dict[str, TaskID] = {}

        def on_progress(url: str, have: int, total: int | None) -> None:
            if url not in tasks:
                tasks[url] = line.add_task(url.rpartition("/")[2] or url, total=total)
            line.update(tasks[url], completed=have, total=total)

        yield replace(options, on_progress=on_progress)
