"""The network of the digits example: three convolutions and two linear layers, 125 162 parameters."""

from __future__ import annotations

from torch import Tensor, nn


def _block(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU()]


class DigitsNet(nn.Module):
    """Scans of handwritten digits, (B, 1, 8, 8) with ink as 1 and paper as 0, to logits, (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(1, 32),
            *_block(32, 64),
            nn.MaxPool2d(2),  # (B, 64, 4, 4)
            *_block(64, 96),
            nn.MaxPool2d(2),  # (B, 96, 2, 2)
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(384, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10)
        )

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(image))
        return logits
