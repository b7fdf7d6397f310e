"""Models from the Hugging Face hub, through `huggingface_hub`, which is imported only when it is needed.

Fetches what a model needs and nothing else: the files that a manifest names, or configuration, tokenizer and
safetensors. Weights that are pickles are never fetched. The library keeps its own cache, address and token
(HF_HOME, HF_ENDPOINT, HF_TOKEN); a model folder is linked from there into the cache of Runoff, because files of
the library's cache are symlinks to elsewhere.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from runoff.errors import ModelError, ModelNotFound, SourceError
from runoff.models.formats import detect_format
from runoff.models.manifest import MANIFEST_NAME, FileEntry, parse_manifest
from runoff.models.partial import ChooseFiles, partial_folder

_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[^@\s]+))?")
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_SIDE_FILES = (".json", ".txt", ".model", ".jinja")
_T = TypeVar("_T")


def parse_hub_id(text: str) -> tuple[str, str | None] | None:
    """`org/name` or `org/name@revision` as its two parts; None when the text has another form."""
    found = _ID.fullmatch(text)
    if found is None or ".." in found["id"] or "--" in found["id"]:
        return None
    return found["id"], found["revision"]


def choose_files(names: list[str]) -> list[str]:
    """Which files of a repository without a manifest are needed: configuration, tokenizer and one set of weights.

    Only files at the top count: folders below hold other frameworks, other precisions or training state.

    Raises:
        ModelError: it has no configuration, or no safetensors.
    """
    top = [name for name in names if "/" not in name]
    if "config.json" not in top:
        exported = next((name for name in sorted(names) if name.endswith(".onnx")), None)
        hint = f"name the file by its address, such as .../resolve/main/{exported}" if exported else None
        raise ModelError("it has neither runoff.json nor config.json", hint=hint)
    weights = [name for name in top if name.endswith(".safetensors")]
    if not weights:
        pickled = any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in names)
        why = "only as pickles, which are never opened" if pickled else "in no form that this version opens"
        raise ModelError(
            f"it has its weights {why}", hint="look for a revision with safetensors, such as one of its pull requests"
        )
    if "model.safetensors.index.json" in top:
        weights = [name for name in weights if _SHARD.fullmatch(name)] or weights
    elif "model.safetensors" in top:
        weights = ["model.safetensors"]
    side = [name for name in top if name.endswith(_SIDE_FILES) and not name.endswith(".bin.index.json")]
    return sorted({*side, *weights})


def fetch_from_hub(repo_id: str, revision: str | None, *, offline: bool, choose: ChooseFiles | None = None) -> Path:
    """Fetch a model and answer its folder: one of ours with a manifest, or a Hugging Face folder.

    Args:
        repo_id: such as `org/name`.
        revision: branch, tag or commit.
        offline: use what the library's cache has.
        choose: which files of a model with a manifest are fetched; None means all.

    Raises:
        ModelNotFound: no such repository or revision, or it is private.
        SourceError: no network, no permission, `huggingface_hub` is missing, or offline without a copy in the cache.
        ModelError: the repository holds nothing that can be opened.
    """
    library = _library(repo_id)
    if offline:
        patterns = [MANIFEST_NAME, "config.json"]
        snapshot = _snapshot(library, repo_id, revision, patterns, local_files_only=True)
    else:
        snapshot = _fetch_head(library, repo_id, revision)
    if not (snapshot / MANIFEST_NAME).is_file():
        try:
            detect_format(snapshot)
        except ModelNotFound as error:
            raise _incomplete(repo_id) from error
        return snapshot
    data = (snapshot / MANIFEST_NAME).read_bytes()

    def fetch(entries: Sequence[FileEntry]) -> Iterator[tuple[FileEntry, Path]]:
        root = snapshot
        if entries and not offline:
            root = _snapshot(library, repo_id, revision, [glob.escape(entry.path) for entry in entries])
        for entry in entries:
            if not (root / entry.path).is_file():
                raise _incomplete(repo_id, entry.path)
            yield entry, root / entry.path

    manifest = parse_manifest(data, f"{repo_id}/{MANIFEST_NAME}")
    return partial_folder(f"hub {repo_id}", manifest, data, choose, fetch)


def _fetch_head(library: Any, repo_id: str, revision: str | None) -> Path:
    """Fetch the manifest of a repository, or all that is needed where it has none; answers the library's folder."""
    info = _ask(repo_id, lambda: library.HfApi().model_info(repo_id, revision=revision))
    # Asked for by the same revision each time, not by commit: only then does the library find it again offline.
    names = [file.rfilename for file in info.siblings or ()]
    if MANIFEST_NAME in names:
        path = _ask(repo_id, lambda: library.hf_hub_download(repo_id, MANIFEST_NAME, revision=revision))
        return Path(str(path)).parent
    try:
        wanted = choose_files(names)
    except ModelError as error:
        raise ModelError(f"{repo_id} on the hub cannot be used: {error.message}", hint=error.hint) from error
    return _snapshot(library, repo_id, revision, [glob.escape(name) for name in wanted])


def _snapshot(library: Any, repo_id: str, revision: str | None, patterns: list[str], **options: Any) -> Path:
    """The library's folder of a revision, with the files of these patterns in it."""
    found = _ask(
        repo_id,
        lambda: library.snapshot_download(repo_id, revision=revision, allow_patterns=patterns, **options),
    )
    return Path(str(found))


def _incomplete(repo_id: str, path: str | None = None) -> SourceError:
    return SourceError(
        f"the copy of {repo_id} in the cache of huggingface_hub is not complete"
        + (f": {path} was never fetched" if path else ""),
        hint="fetch it once with network access",
    )


def _library(repo_id: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise SourceError(
            f"there is no file or folder {repo_id}, and the hub needs huggingface_hub, which is not installed",
            hint="pip install 'runoff[hub]'",
        ) from error
    return huggingface_hub


def _ask(repo_id: str, call: Callable[[], _T]) -> _T:
    """Call the library, its errors told apart by what a person can do about them."""
    import huggingface_hub.errors as hub_errors

    try:
        return call()
    except hub_errors.GatedRepoError as error:
        raise SourceError(
            f"{repo_id} is gated", hint="accept its terms on the hub, then set HF_TOKEN or run 'hf auth login'"
        ) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"there is no file or folder {repo_id} here, and no such model on the hub",
            hint="check the name; a private model needs HF_TOKEN",
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise ModelNotFound(
            f"{repo_id} has no such revision on the hub", hint="check the branch, tag or commit"
        ) from error
    except hub_errors.HFValidationError as error:
        raise ModelNotFound(f"there is no file or folder {repo_id}, and it is no hub id: {error}") from error
    except hub_errors.LocalEntryNotFoundError as error:
        raise SourceError(
            f"{repo_id} is no file or folder here, not in the cache of huggingface_hub, and the hub was not reached",
            hint="check the path; for a hub model, check the network and that RUNOFF_OFFLINE is unset",
        ) from error
    except Exception as error:
        # The library's HTTP client differs between its versions, and so do the errors that pass through.
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise SourceError(f"the hub failed for {repo_id}: {why}", hint="check the network and try again") from error
