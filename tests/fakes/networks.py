"""Small networks for tests of packaging and export, importable by name."""

from __future__ import annotations

import torch
from torch import nn


class Mlp(nn.Module):
    """Four features to three scores."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, hidden), nn.GELU(), nn.Dropout(0.5), nn.Linear(hidden, 3))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers(features)


class ConvNet(nn.Module):
    """An 8x8 image and a scale a row, to logits and a feature map, as a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 6 * 6, 10)

    def forward(self, image: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        features = torch.relu(self.norm(self.conv(image)))
        return {"features": features, "logits": self.head(features.flatten(1)) * scale}


class BatchBound(nn.Module):
    """Knows its batch by heart."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.layer = nn.Linear(4, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layer(features.reshape(self.rows, 4))


class Branching(nn.Module):
    """Decides by the values of its input."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features * 2 if features.sum() > 0 else features * 3
