"""What exported graphs write to, told by their operators."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from runoff.backends.torch_effects import keeps_state, writes_in_place


class _Relu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu_(x * 2)


class _Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen[:1].view(1).add_(1)
        return x + self.seen


class _Input(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(2).add_(1)


@pytest.mark.parametrize(
    ("module", "writes", "keeps"),
    [
        (nn.Linear(2, 2), False, False),
        (_Relu(), True, False),
        (_Input(), True, False),
        (_Counter(), True, True),
        (nn.Sequential(nn.Dropout(), nn.ReLU(inplace=True)), True, False),
    ],
)
def test_writes_are_told_apart(module: nn.Module, writes: bool, keeps: bool) -> None:
    graph = torch.export.export(module.eval(), (torch.ones(2),)).module()
    assert (writes_in_place(graph), keeps_state(graph)) == (writes, keeps)
