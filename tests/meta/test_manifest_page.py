"""docs/manifest.md: its example is a manifest, and it describes every field."""

from __future__ import annotations

import re

import msgspec
import pytest

from meta.code_blocks import blocks
from meta.repository import ROOT
from runoff.models import manifest
from runoff.models.manifest import dump_manifest, parse_manifest
from runoff.types import Signature, TensorSpec

PAGE = (ROOT / "docs" / "manifest.md").read_text()
STRUCTS = (
    manifest.Manifest,
    Signature,
    TensorSpec,
    manifest.PackageEntry,
    manifest.FileEntry,
    manifest.MadeBy,
    manifest.Fidelity,
    manifest.Golden,
    manifest.Evaluation,
)


def _example() -> bytes:
    return next(block.text for block in blocks(PAGE) if block.language == "json").encode()


def test_example_is_a_valid_manifest_with_every_optional_part() -> None:
    example = parse_manifest(_example())
    optional = [field.name for field in msgspec.structs.fields(example) if not getattr(example, field.name)]
    assert optional == []


def test_example_is_written_as_runoff_writes_it() -> None:
    assert parse_manifest(dump_manifest(parse_manifest(_example()))) == parse_manifest(_example())


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_field_is_described(struct: type[msgspec.Struct]) -> None:
    section = re.search(rf"^## .*`{struct.__name__}`\n(?P<body>.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section, f"docs/manifest.md has no section for `{struct.__name__}`"
    described = re.findall(r"^\| `(\w+)` \|", section["body"], re.MULTILINE)
    assert described == [field.encode_name for field in msgspec.structs.fields(struct)]
