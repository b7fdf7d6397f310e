"""`runoff.race_model`: race whatever the user names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from runoff.backends import table
from runoff.environment.describe import describe_environment
from runoff.errors import unknown_name
from runoff.export.find import find_folder, writable_folder
from runoff.models.folder import copy_folder
from runoff.models.manifest import FileEntry, Manifest
from runoff.models.sources import SourceOptions
from runoff.race.decide import OBJECTIVES
from runoff.race.options import Listener, RaceOptions, silent
from runoff.race.run import RaceResult, race_folder
from runoff.race.usable import not_installed


def race_model(
    model: str | Path,
    options: RaceOptions | None = None,
    listener: Listener = silent,
    *,
    out: Path | None = None,
    source: SourceOptions | None = None,
) -> RaceResult:
    """Race every runtime that can run the model on this machine, and record the winner in the model's folder.

    Args:
        model: a model folder, a bare file, a Hugging Face folder, a hub id, a URL or a provider's reference.
        options: objective, contract, batch sizes, threads, ...
        listener: told of every step.
        out: copy the model to a new folder there and race the copy.
        source: revision, digest and offline mode of what must be downloaded.

    Raises:
        UnknownName: an objective, backend or candidate that does not exist.
        RaceError, ModelError: see `race_folder`.
    """
    options = options or RaceOptions()
    if options.objective not in OBJECTIVES:
        raise unknown_name("objective", options.objective, list(OBJECTIVES))
    source = source or SourceOptions()
    # A copy is to be whole; in the cache, what cannot compete here need not be fetched.
    folder = find_folder(model, source if out is not None else replace(source, files=_racing_files))
    folder = copy_folder(folder, out) if out is not None else writable_folder(folder)
    return race_folder(folder, options, listener)


def _racing_files(manifest: Manifest) -> Iterator[FileEntry]:
    """What a race on this machine reads of a model: the packages that can run here, and the labelled data."""
    environment, rows = describe_environment(), table.rows()
    able = {row.id for row in rows.values() if not_installed(row, environment) is None}
    yield from manifest.files_of([entry.id for entry in manifest.packages if entry.backend in able])
    if manifest.evaluation:
        yield manifest.evaluation.inputs
        yield manifest.evaluation.labels
