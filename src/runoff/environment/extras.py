"""Runoff's own requirements, by the metadata of its distribution: which extras are installed, which versions it takes.

An extra is installed when everything that it requires here is, in a version that it takes. Installs nothing and
imports no library; where versions come from is the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from packaging.requirements import Requirement

VersionOf: TypeAlias = Callable[[str], str | None]
"""The installed version of a distribution by name, or None."""

_OWN_NAME = "runoff"
_BUILD_EXTRA = re.compile(r"torch-(?:.+-)?(cpu|cu\d+)")
_CUDA_BUILDS = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime-cu11")


class Requirements:
    """The requirements of a distribution.

    Args:
        requires: its `Requires-Dist` lines.
        extras: its `Provides-Extra` names.
        version_of: tells what is installed.
    """

    def __init__(self, requires: Sequence[str], extras: Sequence[str], version_of: VersionOf) -> None:
        from packaging.requirements import Requirement

        self._requires = [Requirement(line) for line in requires]
        self._extras = sorted(extras)
        self._version_of = version_of

    def installed_extras(self) -> tuple[str, ...]:
        """The extras that are installed, by name.

        The PyTorch extras differ only in the build, and that shows in its version: 2.9.0+cu126.
        """
        return tuple(extra for extra in self._extras if self._is_installed(extra, frozenset()))

    def refusal(self, distribution: str, version: str) -> str | None:
        """Why no requirement takes that version of a distribution, such as `1.2 is installed, runoff needs >=1.20`.

        None when one takes it, when none names the distribution, or when the version cannot be read.
        """
        from packaging.utils import canonicalize_name

        wanted = {
            str(required.specifier)
            for required in self._requires
            if canonicalize_name(required.name) == canonicalize_name(distribution)
        }
        if not wanted or not _is_version(version) or any(_takes(specifier, version) for specifier in wanted):
            return None
        return f"{version} is installed, runoff needs {' or '.join(sorted(wanted))}"

    def _is_installed(self, extra: str, above: frozenset[str]) -> bool:
        """`above` holds the extras that include this one, so that a circle ends."""
        if extra in above:
            return True
        brought = [required for required in self._requires if _is_brought_by(required, extra)]
        return (
            bool(brought)
            and self._is_this_build(extra)
            and all(self._is_met(each, above | {extra}) for each in brought)
        )

    def _is_met(self, required: Requirement, above: frozenset[str]) -> bool:
        if required.name.lower() == _OWN_NAME:
            return all(self._is_installed(extra, above) for extra in sorted(required.extras))
        version = self._version_of(required.name)
        return version is not None and _is_version(version) and _takes(str(required.specifier), version)

    def _is_this_build(self, extra: str) -> bool:
        match = _BUILD_EXTRA.fullmatch(extra)
        if match is None:
            return True
        _, _, label = (self._version_of("torch") or "").partition("+")
        if not label and not any(self._version_of(name) for name in _CUDA_BUILDS):
            label = "cpu"
        return label == match[1]


def _is_brought_by(required: Requirement, extra: str) -> bool:
    """Whether an extra, and not the plain installation, brings a requirement on this machine."""
    # Reading the marker's text first saves evaluating every marker for every extra.
    if required.marker is None or f'"{extra}"' not in str(required.marker):
        return False
    return required.marker.evaluate({"extra": extra}) and not required.marker.evaluate({"extra": ""})


def _is_version(text: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def _takes(specifier: str, version: str) -> bool:
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    # Vendors' builds call themselves 2.6.0a0+nv25.01: they count as the release that they lead to.
    return SpecifierSet(specifier).contains(Version(version).base_version, prereleases=True)
