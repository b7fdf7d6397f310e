"""The extras of pyproject.toml: every requirement is valid, they compose, and those that clash are documented."""

from __future__ import annotations

import itertools
import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from meta.repository import ROOT, pyproject

PROJECT = pyproject()["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PROMISED = {
    *("torch", "torch-cpu", "torch-cu126", "torch-cu128", "torch-cu130", "torch-jp6-cu126"),
    *("onnx-cpu", "onnx-cu12", "onnx-cu11", "onnx-openvino", "onnx-directml", "openvino", "hf", "trt10", "trt8"),
    *("export", "quant", "race", "report", "all-cpu", "dev", "docs"),
}
ORT_BUILDS = ("onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
PAGE = (ROOT / "docs" / "installation.md").read_text()


def _flatten(extra: str, seen: tuple[str, ...] = ()) -> list[Requirement]:
    """Every requirement that an extra brings, references to other extras of this project followed."""
    assert extra not in seen, f"the extras {' > '.join(seen)} > {extra} go round in a circle"
    found: list[Requirement] = []
    for text in EXTRAS[extra]:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != PROJECT["name"]:
            found.append(requirement)
            continue
        assert requirement.extras, f"extra {extra!r} names the project itself without an extra"
        for name in sorted(requirement.extras):
            found += _flatten(name, (*seen, extra))
    return found


def _contradict(one: Requirement, other: Requirement) -> bool:
    """Whether no version satisfies both; the bounds that they name are enough to try, since lower ones are included."""
    bounds = {Version(part.version) for part in (*one.specifier, *other.specifier)}
    return not any(one.specifier.contains(bound) and other.specifier.contains(bound) for bound in bounds)


def _clash(first: str, second: str) -> bool:
    pairs = itertools.product(_flatten(first), _flatten(second))
    return any(one.name == other.name and _contradict(one, other) for one, other in pairs)


def test_promised_extras_are_there() -> None:
    assert set(EXTRAS) >= PROMISED


@pytest.mark.parametrize("extra", EXTRAS)
def test_extra_resolves_to_valid_requirements(extra: str) -> None:
    requirements = _flatten(extra)
    assert requirements, "an extra that brings nothing"
    assert [str(requirement) for requirement in requirements if requirement.url] == []
    assert [str(requirement) for requirement in requirements if not requirement.specifier] == []


@pytest.mark.parametrize("extra", EXTRAS)
def test_extra_agrees_with_itself_and_the_base(extra: str) -> None:
    base = [Requirement(text) for text in PROJECT["dependencies"]]
    pairs = itertools.combinations([*base, *_flatten(extra)], 2)
    assert [(str(one), str(other)) for one, other in pairs if one.name == other.name and _contradict(one, other)] == []


@pytest.mark.parametrize("extra", EXTRAS)
def test_extra_is_in_the_installation_page(extra: str) -> None:
    assert re.search(rf"^\| .*`{re.escape(extra)}`", PAGE, re.MULTILINE)


def test_clashing_extras_are_documented() -> None:
    clashing = [pair for pair in itertools.combinations(EXTRAS, 2) if _clash(*pair)]
    lines = PAGE.splitlines()
    assert ("trt10", "trt8") in clashing
    assert [pair for pair in clashing if not any(all(f"`{name}`" in line for name in pair) for line in lines)] == []


@pytest.mark.parametrize("build", ORT_BUILDS)
def test_builds_that_share_an_import_name_are_documented(build: str) -> None:
    assert any(requirement.name == build for extra in EXTRAS for requirement in _flatten(extra))
    assert f"`{build}`" in PAGE


def test_constraints_pin_what_development_installs() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(name): Version(version) for name, _, version in (line.partition("==") for line in lines)}
    needed = [*_flatten("dev"), *(Requirement(text) for text in PROJECT["dependencies"])]
    outside = [str(need) for need in needed if not need.specifier.contains(pins[canonicalize_name(need.name)])]
    assert outside == []
    assert [name for name, version in pins.items() if version.local] == []
