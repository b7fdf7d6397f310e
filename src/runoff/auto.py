"""The front door: find the model, decide which package answers, open it.

Sequences `export/find.py`, `race/decide.py` and `backends/table.py`; every step has its own module and tests.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runoff.backends import table
from runoff.backends.protocol import Session
from runoff.backends.rows import with_any_batch
from runoff.environment.describe import Environment, describe_environment
from runoff.errors import NoCandidate, RunoffError, RuntimeLoadError, SourceError, UnknownName
from runoff.export.find import find_folder, known_folder
from runoff.model import Model
from runoff.models.folder import ModelFolder, Package
from runoff.models.sources import SourceOptions
from runoff.race.candidates import Candidate
from runoff.race.decide import Decision, Rejection, decide
from runoff.race.fidelity import Contract
from runoff.race.ledger import find_record
from runoff.race.moved import choice_elsewhere
from runoff.race.wish import Objective, Wish, make_wish

if TYPE_CHECKING:
    from runoff.models.description import ModelDescription
    from runoff.models.listing import ListedModel


class FallbackWarning(UserWarning):
    """The best candidate failed to open and the next one answers."""


class AutoModel:
    """Opens any model with the fastest runtime that stays correct here."""

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        backend: str | Sequence[str] | None = None,
        precision: str | Sequence[str] | None = None,
        device: str | None = None,
        batch_size: int | None = None,
        num_threads: int | None = None,
        objective: Objective = "latency",
        contract: Contract | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        source: SourceOptions | None = None,
        verify: bool = False,
    ) -> Model:
        """Open a model: the measured winner where it was raced here, else the documented order's first.

        Args:
            model: a model folder, a bare file, a Hugging Face folder, an archive of one of these, a hub id, a URL, a
                name in the registry or a provider's reference.
            backend: one backend or an ordered list, such as `"onnx"` or `["torch", "onnx"]`; obeyed or refused.
            precision: one precision or an ordered list, such as `"fp32"`; obeyed or refused.
            device: `cpu`, `cuda`, `cuda:1`, `gpu`, `npu`, `mps`; the CPU unless told.
            batch_size: rows that one `run` will have; packages made for another batch are rejected.
            num_threads: threads of one `run`.
            objective: `latency`, `throughput`, `cold-start`, `memory` or `size`. For `throughput` this opens one of the
                sessions that `decision.serving` says to serve with, with the threads that each has there.
            contract: how far outputs may be from the reference's; None holds each precision to its own level.
            options: backend options by backend, such as `{"onnx": {"providers": ["CPUExecutionProvider"]}}`.
            source: revision, digest and offline mode of what must be downloaded.
            verify: let the opened package answer the model's golden pair first, and refuse it outside its contract.

        Of a model that lies elsewhere only the package that is opened is fetched.

        Raises:
            ModelNotFound, ManifestInvalid, DigestMismatch: the model is not there or damaged.
            SourceError: it could not be fetched.
            UnknownName: a backend, precision, device, objective or option that does not exist.
            NoCandidate: every package was rejected; the message has each reason.
            SelfCheckFailed: the golden pair was not answered as the reference did; no other package is tried.
            ModelError: `verify` was asked for and there is no golden pair.
        """
        wish = make_wish(
            backend=backend,
            precision=precision,
            device=device,
            batch_size=batch_size,
            num_threads=num_threads,
            objective=objective,
            contract=contract,
        )
        backend_options = _check_options(options or {})
        fetch = _Fetch(model, source or SourceOptions(), wish.backends)
        folder = fetch.find()
        decision = decide_for(folder, wish, _environment())
        opened = _open_best(known_folder(folder), decision, backend_options, fetch)
        if verify:
            _verify(opened, wish.contract)
        return opened

    @staticmethod
    def describe_compute_environment() -> Environment:
        """The facts about this machine; printing them gives a table, `.to_dict()` gives JSON values."""
        return describe_environment()

    describe_runtime = describe_compute_environment

    @staticmethod
    def describe_model(model: str | Path, source: SourceOptions | None = None) -> ModelDescription:
        """What a model is: task, signature, packages with their fidelity. Loads no runtime."""
        from runoff.models.description import describe_model
        from runoff.models.sources import find_source

        path = find_source(model, replace(source or SourceOptions(), files=lambda manifest: manifest.files_of(()))).path
        return describe_model(path, lambda format_id: [row.id for row in table.backends_for(format_id)])

    @staticmethod
    def list_models() -> list[ListedModel]:
        """The models in the registry of `RUNOFF_REGISTRY`, below `RUNOFF_MODELS` and in the cache."""
        from runoff.models.listing import list_models

        return list_models()


@cache
def _environment() -> Environment:
    """This machine, looked at once in a process: what a decision rests on does not change while it runs."""
    return describe_environment()


def decide_for(folder: ModelFolder, wish: Wish, environment: Environment) -> Decision:
    """Decide with the record of this machine, if the model was raced on it.

    The notes say why a record of another environment does not hold, and what became of the choice that was made there.
    """
    folder = known_folder(folder)
    record, notes = find_record(folder, environment)
    decision = decide(folder.manifest, environment, wish, record)
    elsewhere = choice_elsewhere(folder, environment, decision)
    return msgspec.structs.replace(decision, notes=(*decision.notes, *notes, *elsewhere))


def _check_options(options: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    checked: dict[str, Mapping[str, Any]] = {}
    for name, given in options.items():
        backend_id = table.row(name).id
        if not isinstance(given, Mapping):
            raise UnknownName(
                f"the options of backend {backend_id!r} are {given!r}, expected a mapping",
                hint=f'options={{"{backend_id}": {{"name": value}}}}',
            )
        table.check_options(backend_id, given)
        checked[backend_id] = {**checked.get(backend_id, {}), **given}
    return checked


@dataclass(frozen=True, slots=True)
class _Fetch:
    """Where a model comes from, and how a package of it that is not here yet is fetched."""

    model: str | Path
    source: SourceOptions
    backends: tuple[str, ...]

    def find(self, *packages: str) -> ModelFolder:
        """The model's folder, with at least these packages in it."""
        options = replace(self.source, files=lambda manifest: manifest.files_of(packages))
        return find_folder(self.model, options, self.backends)

    def bring(self, package: Package) -> None:
        """Fetch a package that is not here.

        Raises:
            RuntimeLoadError: it is not here and nothing may be fetched, so that another one may be tried.
            SourceError: it could not be fetched.
        """
        if package.is_here():
            return
        try:
            self.find(package.id)
        except SourceError as error:
            if not self.source.is_offline():
                raise
            raise RuntimeLoadError(f"it was not fetched yet, and this is offline: {error.message}") from error


def _verify(opened: Model, contract: Contract) -> None:
    """The self-check of a model that was just opened; one that fails is closed."""
    try:
        opened.verify(contract)
    except BaseException:
        opened.close()
        raise


def _open_best(
    folder: ModelFolder, decision: Decision, options: Mapping[str, Mapping[str, Any]], fetch: _Fetch
) -> Model:
    """Open the first of the ranking that opens; failures become rejections and are reported, never hidden."""
    decision.require()
    failed: list[Rejection] = []
    for place, ranked in enumerate(decision.ranking):
        try:
            candidate = _with_options(ranked.candidate, options)
            package = folder.package(candidate.package_id)
            fetch.bring(package)
            package.verify()
            session = with_any_batch(_open(package, candidate), package.entry, folder.manifest.signature)
        except RuntimeLoadError as error:
            failed.append(Rejection(ranked.candidate.id, f"failed to open: {error.message}", error.hint))
            continue
        if failed:
            names = ", ".join(rejection.candidate_id for rejection in failed)
            warnings.warn(
                f"{names} failed to open, {candidate.id} answers: see explain()", FallbackWarning, stacklevel=3
            )
        final = msgspec.structs.replace(
            decision,
            basis="measured" if ranked.figure is not None else "guessed",
            chosen=candidate,
            # What was measured of the winner says nothing of the one that answers in its place.
            serving=decision.serving if place == 0 else None,
            ranking=decision.ranking[place:],
            rejections=(*failed, *decision.rejections),
        )
        return Model(folder, candidate, session, final)
    raise NoCandidate(
        f"no package of {decision.model!r} opens on this machine",
        rejections={rejection.candidate_id: rejection.reason for rejection in (*failed, *decision.rejections)},
        hint=next((rejection.hint for rejection in failed if rejection.hint), None),
    )


def _open(package: Package, candidate: Candidate) -> Session:
    try:
        return table.backend(candidate.backend).open(package, candidate.session_options())
    except RunoffError:
        raise
    except Exception as error:
        raise RuntimeLoadError(f"backend {candidate.backend!r} raised {type(error).__name__}: {error}") from error


def _with_options(candidate: Candidate, options: Mapping[str, Mapping[str, Any]]) -> Candidate:
    extra = options.get(candidate.backend)
    if not extra:
        return candidate
    return msgspec.structs.replace(candidate, options={**candidate.options, **extra})
