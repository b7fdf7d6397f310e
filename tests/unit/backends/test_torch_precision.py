"""Graphs at another precision: every float in them moves, and nothing else does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from runoff.backends.torch_precision import convert_graph


def _converted(module: nn.Module, *example: torch.Tensor, target: torch.dtype = torch.bfloat16) -> torch.fx.GraphModule:
    graph = torch.export.export(module.eval(), example).module()
    convert_graph(graph, torch.float32, target)
    return graph


class _Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.constant = torch.tensor([1.5, 2.5])
        self.register_buffer("table", torch.tensor([0.5, 0.5], dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * self.constant, self.table * 2


def test_constants_that_are_no_weights_move_and_doubles_stay() -> None:
    outputs = _converted(_Constant(), torch.ones(2))(torch.ones(2, dtype=torch.bfloat16))
    assert [output.dtype for output in outputs] == [torch.bfloat16, torch.float64]


class _Casts(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x.to(torch.float32), -1, dtype=torch.float32)


class _Factory(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(2) + torch.arange(0.0, 2.0) + torch.zeros(2, dtype=torch.float32)


class _Integers(nn.Module):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return ids / 2 + ids.to(torch.float32).mean() + torch.sqrt(ids)


@pytest.mark.parametrize("module", [_Casts(), _Factory(), _Integers()])
def test_floats_that_start_within_the_graph_move(module: nn.Module) -> None:
    integers = isinstance(module, _Integers)
    example = torch.arange(2) if integers else torch.tensor([0.5, 1.0])
    output = _converted(module, example)(example if integers else example.bfloat16())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), module(example), atol=0.02, rtol=0.02)


class _Mask(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lowest = torch.full((3,), torch.finfo(torch.float32).min)
        return torch.softmax(x.masked_fill(x < 0, torch.finfo(torch.float32).min) + lowest, -1)


def test_numbers_beyond_the_range_become_the_largest_of_it() -> None:
    graph = _converted(_Mask(), torch.zeros(3), target=torch.float16)
    values = [argument for node in graph.graph.nodes for argument in node.args if isinstance(argument, float)]
    assert values
    assert min(values) == torch.finfo(torch.float16).min


class _Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return x + torch.full((2,), 0.5)


def test_nested_graphs_move_too() -> None:
    output = _converted(_Branches(), torch.ones(2))(torch.ones(2, dtype=torch.bfloat16))
    assert output.dtype == torch.bfloat16
