"""Small networks with seeded random weights, importable by their dotted name as a safetensors package needs it."""

from __future__ import annotations

import torch
from torch import nn


class Mlp(nn.Module):
    """x: fp32[batch, 8] -> y: fp32[batch, 4]."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.layers(x)}


class ConvNet(nn.Module):
    """image: fp32[batch, 3, 16, 16] -> logits: fp32[batch, 10], features: fp32[batch, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        features = torch.relu(self.norm(self.convolution(image))).mean((2, 3))
        return {"logits": self.head(features), "features": features}


class Features(nn.Module):
    """image: fp32[batch, height, width, 3] -> fp32[batch, 4], whatever the size of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.convolution(image.permute(0, 3, 1, 2))).mean((2, 3)))


class PictureNet(nn.Module):
    """image: uint8[batch, height, width, 3] -> embedding: fp32[batch, 4]; the pixels are scaled inside."""

    def __init__(self) -> None:
        super().__init__()
        self.features = Features()

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"embedding": self.features((image.float() - 127.5) / 127.5)}


class Pooler(nn.Module):
    """ids: int64[batch, 6], weights: fp32[batch, 6] -> scores: fp32[batch, 5], total: int64[batch].

    Has what a change of precision trips over: a dtype that is spelt out, a factory without one, an unregistered
    constant, integers that become floats, and fp32's lowest number as a mask.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 12)
        self.head = nn.Linear(12, 5)
        self.scale = torch.tensor(0.5)

    def forward(self, ids: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.full((ids.shape[0], 6), torch.finfo(torch.float32).min)
        mask = torch.where(ids == 0, hidden, torch.zeros((), dtype=torch.float32))
        shares = torch.softmax(weights.to(torch.float32) + mask, dim=-1, dtype=torch.float32)
        pooled = (self.embedding(ids) * shares[:, :, None]).sum(1) * self.scale
        return {"scores": self.head(pooled) + ids.to(torch.float32).mean(-1, keepdim=True) / 20, "total": ids.sum(-1)}


class WritesItsInput(nn.Module):
    """x: fp32[batch, 3] -> y: fp32[batch, 3]; adds to its input in place and answers it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.add_(1.0)


class AnswersItsWeight(nn.Module):
    """x: fp32[batch, 3] -> weight: fp32[3], head: fp32[2], both in the memory of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(3.0))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.weight, self.weight[:2]


class Narrow(nn.Module):
    """A network at another float precision behind the fp32 inputs and outputs of its signature."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = net.to(dtype)
        self.dtype = dtype

    def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.net(*(value.to(self.dtype) if value.is_floating_point() else value for value in inputs))
        return {
            name: value.to(torch.float32) if value.is_floating_point() else value for name, value in outputs.items()
        }


NOT_A_MODULE = dict
