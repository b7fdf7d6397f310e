"""Every error that Runoff raises, as one tree.

    RunoffError                     anything below; carries `hint` and `code`
    ├── SettingInvalid              a RUNOFF_* variable has a value that cannot be read
    ├── UnknownName                 a backend, precision, option, task, ... that does not exist
    ├── InputError                  arrays or files handed to a model that it cannot take
    ├── ModelError                  the model on disk
    │   ├── ModelNotFound           nothing at that path, id or URL
    │   ├── ManifestInvalid         runoff.json cannot be read, or says something impossible
    │   ├── DigestMismatch          a file is not the one that the manifest describes
    │   ├── PathEscapes             a path or symlink leads out of the model folder
    │   ├── FormatMismatch          the content of a file is not what its name says
    │   └── FolderBusy              another process holds the folder's lock
    ├── SourceError                 a download or a model provider failed
    ├── SelectionError              the choice among packages
    │   └── NoCandidate             every package was rejected; carries the rejections
    ├── RuntimeLoadError            a runtime could not open a package
    │   └── BackendNotInstalled     its library is missing; the hint names the extra
    ├── RuntimeRunError             a runtime failed while computing
    │   └── SessionClosed           `run` after `close`
    ├── SelfCheckFailed             a package does not answer the golden pair as the reference did
    ├── ChildFailed                 an isolated process crashed, hung or used too much memory
    ├── ExportError                 a format could not be made
    └── RaceError                   the race as a whole could not be run

What a caller can act on is data: `error.hint` is the remedy in one sentence, `error.code` is stable and
documented in docs/errors.md. Errors of a runtime library are always the `__cause__`, never the surface.
"""

from __future__ import annotations

from typing import Any, ClassVar


class RunoffError(Exception):
    """Base of every error that Runoff raises.

    Attributes:
        hint: what to do about it, in one sentence, or None.
        code: a stable identifier, documented in docs/errors.md.
    """

    code: ClassVar[str] = "RUNOFF-000"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = str(self.args[0])
        return f"{message}\nhint: {self.hint}" if self.hint else message

    @property
    def message(self) -> str:
        """The message without the hint."""
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception is pickled as a call with its positional arguments, which is not how these are made.
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(kind: type[RunoffError], args: tuple[Any, ...], state: dict[str, Any]) -> RunoffError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class SettingInvalid(RunoffError):
    """A RUNOFF_* environment variable has a value that cannot be read."""

    code = "RUNOFF-001"


class UnknownName(RunoffError):
    """A name that does not exist: the message lists the known ones."""

    code = "RUNOFF-002"


class InputError(RunoffError):
    """Input that the model's signature or task refuses: name, dtype, rank, dimension or content."""

    code = "RUNOFF-100"


class ModelError(RunoffError):
    """The model on disk cannot be used as it is."""

    code = "RUNOFF-200"


class ModelNotFound(ModelError):
    """Nothing was found at the path, id or URL."""

    code = "RUNOFF-201"


class ManifestInvalid(ModelError):
    """The manifest cannot be read, or says something impossible."""

    code = "RUNOFF-202"


class DigestMismatch(ModelError):
    """A file differs from what the manifest describes."""

    code = "RUNOFF-203"


class PathEscapes(ModelError):
    """A path or a symlink leads out of the model folder."""

    code = "RUNOFF-204"


class FormatMismatch(ModelError):
    """The content of a file is not what its name says."""

    code = "RUNOFF-205"


class FolderBusy(ModelError):
    """Another process holds the lock of the folder."""

    code = "RUNOFF-206"


class SourceError(RunoffError):
    """A download or a model provider failed."""

    code = "RUNOFF-300"


class SelectionError(RunoffError):
    """The choice among packages could not be made."""

    code = "RUNOFF-400"


class NoCandidate(SelectionError):
    """Every package was rejected.

    Attributes:
        rejections: candidate id to the reason why it was rejected.
    """

    code = "RUNOFF-401"

    def __init__(self, message: str, *, rejections: dict[str, str], hint: str | None = None) -> None:
        width = max((len(name) for name in rejections), default=0)
        lines = [f"  {name:<{width}}  {reason}" for name, reason in rejections.items()]
        super().__init__("\n".join([message, *lines]), hint=hint)
        self.rejections = rejections


class RuntimeLoadError(RunoffError):
    """A runtime could not open a package."""

    code = "RUNOFF-500"


class BackendNotInstalled(RuntimeLoadError):
    """The library of a backend is missing or broken."""

    code = "RUNOFF-501"


class RuntimeRunError(RunoffError):
    """A runtime failed while computing."""

    code = "RUNOFF-502"


class SessionClosed(RuntimeRunError):
    """The session was used after it was closed."""

    code = "RUNOFF-503"


class SelfCheckFailed(RunoffError):
    """A package does not answer the model's golden pair within its contract on this machine; it is not to be used here.

    Attributes:
        figures: for each output its errors and the limits that they were held to, as JSON values.
    """

    code = "RUNOFF-504"

    def __init__(self, message: str, *, figures: list[dict[str, Any]], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.figures = figures


class ChildFailed(RunoffError):
    """An isolated process crashed, hung, or used more memory than it may; the message says which."""

    code = "RUNOFF-800"


class ExportError(RunoffError):
    """A format could not be made from what is there."""

    code = "RUNOFF-600"


class RaceError(RunoffError):
    """The race as a whole could not be run."""

    code = "RUNOFF-700"


def unknown_name(kind: str, name: object, known: list[str]) -> UnknownName:
    """Build the error for a name that does not exist, with the nearest known ones first in its hint."""
    import difflib

    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else None
    return UnknownName(f"unknown {kind} {name!r}; known: {', '.join(known) or 'none'}", hint=hint)
