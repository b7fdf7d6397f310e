"""Archives that would run code of their author when PyTorch opens them are refused before it does."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from runoff.backends.torch_archive import check_archive
from runoff.errors import FormatMismatch


class _Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 2)
            self.constant = torch.tensor(2.0)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.linear(torch.cat([x, y])) * self.constant

    batch = torch.export.Dim("batch")
    rows = torch.export.Dim("rows", max=64)
    shapes = {"x": {0: batch}, "y": {0: rows}}
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(Net(), (torch.ones(3, 4), torch.ones(2, 4)), dynamic_shapes=shapes), path)
    return path


def _rewrite(archive: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes] | None = None) -> Path:
    """The archive with each record changed, and further ones added, below the root folder of the archive."""
    changed = archive.with_name("changed.pt2")
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(changed, "w", zipfile.ZIP_STORED) as target:
        root = source.namelist()[0].partition("/")[0]
        for name in source.namelist():
            target.writestr(name, change(name.partition("/")[2], source.read(name)))
        for name, data in (extra or {}).items():
            target.writestr(f"{root}/{name}", data)
    return changed


def _edit(record: str, edit: Callable[[dict[str, Any]], None]) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        if name != record:
            return data
        content = json.loads(data)
        edit(content)
        return json.dumps(content).encode()

    return change


def _keep(name: str, data: bytes) -> bytes:
    return data


def test_plain_archive_passes_and_opens(archive: Path) -> None:
    copy = _rewrite(archive, _keep)
    for path in (archive, copy):
        check_archive(path)
        torch.export.load(path).module()(torch.ones(5, 4), torch.ones(6, 4))


def test_archive_with_nested_graphs_passes(tmp_path: Path) -> None:
    class Nested(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda y: y.cos(), lambda y: y + 1, (x,))

    path = tmp_path / "model.pt2"
    program = torch.export.export(Nested(), (torch.ones(2),))
    assert any(isinstance(node.target, torch._ops.HigherOrderOperator) for node in program.graph.nodes)
    torch.export.save(program, path)
    check_archive(path)


def test_sample_inputs_that_run_code_are_refused(archive: Path) -> None:
    harm = archive.with_name("harm")
    bad = _rewrite(
        archive, lambda name, data: _saved(_Touch(harm), archive) if name == "data/sample_inputs/model.pt" else data
    )
    with pytest.raises(FormatMismatch, match="pickled objects"):
        check_archive(bad)
    assert not harm.exists()


def test_pickled_weight_that_runs_code_is_refused(archive: Path) -> None:
    harm = archive.with_name("harm")

    def mark(config: dict[str, Any]) -> None:
        config["config"]["linear.bias"] |= {"use_pickle": True, "path_name": "weight_9"}

    change = _edit("data/weights/model_weights_config.json", mark)
    bad = _rewrite(archive, change, {"data/weights/weight_9": _saved(_Touch(harm), archive)})
    with pytest.raises(FormatMismatch, match="'weight_9' holds pickled objects"):
        check_archive(bad)
    assert not harm.exists()


@pytest.mark.parametrize("prefix", ["opaque_obj", "custom_obj"])
def test_pickled_object_among_constants_is_refused(archive: Path, prefix: str) -> None:
    def mark(config: dict[str, Any]) -> None:
        config["config"]["constant"]["path_name"] = f"{prefix}_0"

    change = _edit("data/constants/model_constants_config.json", mark)
    bad = _rewrite(archive, change, {f"data/constants/{prefix}_0": pickle.dumps(_Touch(archive))})
    with pytest.raises(FormatMismatch, match="is a pickled object"):
        check_archive(bad)


def test_machine_code_is_refused(archive: Path) -> None:
    bad = _rewrite(archive, _keep, {"data/aotinductor/model/code.so": b"\x7fELF"})
    with pytest.raises(FormatMismatch, match="machine code"):
        check_archive(bad)


@pytest.mark.parametrize(
    "guard",
    [
        "print('harm')",
        "L['x'].size()[0] == __import__('os').getpid()",
        "L['x'].__class__ == 1",
        "(lambda: 1)() == 1",
        "[y for y in (1,)]",
        "L['x\"); harm()'].size()[0] == 1",
        "L['x'].size()[0] == 1); harm(",
        "L['x'].apply_(print) == 1",
    ],
)
def test_guard_that_is_more_than_a_comparison_is_refused(archive: Path, guard: str) -> None:
    bad = _rewrite(archive, _edit("models/model.json", lambda program: program.update(guards_code=[guard])))
    with pytest.raises(FormatMismatch, match="more than a comparison"):
        check_archive(bad)


def test_guard_on_sizes_passes(archive: Path) -> None:
    guard = "L['x'].size()[0] == L['y'].size()[0] and 2 <= L['x'].stride()[1] + 1"
    check_archive(_rewrite(archive, _edit("models/model.json", lambda program: program.update(guards_code=[guard]))))


@pytest.mark.parametrize(
    "expression",
    ["__import__('os').getpid()", "Symbol('s0').func", "sin('harm()')", "lambdify(1, 'harm()')", "s0 )", "(1).real"],
)
def test_expression_that_is_more_than_arithmetic_is_refused(archive: Path, expression: str) -> None:
    def plant(name: str, data: bytes) -> bytes:
        return data.replace(b"Symbol('", expression.encode() + b"+Symbol('", 1) if name == "models/model.json" else data

    with pytest.raises(FormatMismatch, match="more than arithmetic"):
        check_archive(_rewrite(archive, plant))


@pytest.mark.parametrize("target", ["torch.hub.load", "os.system", "torch.ops.load_library", "torch.ops.aten.harm.x"])
def test_operator_that_is_none_is_refused(archive: Path, target: str) -> None:
    def plant(name: str, data: bytes) -> bytes:
        return data.replace(b"torch.ops.aten.mul.Tensor", target.encode()) if name == "models/model.json" else data

    with pytest.raises(FormatMismatch, match="none of PyTorch's"):
        check_archive(_rewrite(archive, plant))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not an archive"])
def test_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    with pytest.raises(FormatMismatch):
        check_archive(path)


def test_archive_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    torch.save({"weights": torch.ones(2)}, path)
    with pytest.raises(FormatMismatch, match=r"not an archive of torch\.export\.save"):
        check_archive(path)


def _saved(value: Any, beside: Path) -> bytes:
    path = beside.with_name("saved.pt")
    torch.save(value, path)
    return path.read_bytes()
