"""A detector of the shape of YOLOv8n: backbone, pyramid and heads of three scales, boxes decoded in the graph.

Written for the benchmarks: the parts that converters stumble over are there (split, concatenation, resizing, pooling,
softmax over bins, anchors as constants); training it is not provided for.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16, 32)
BINS = 16
CLASSES = 80


class Conv(nn.Sequential):
    """Convolution, batch norm, SiLU."""

    def __init__(self, inner: int, outer: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inner, outer, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outer), nn.SiLU()
        )


class Split(nn.Module):
    """Half of the channels pass through `depth` pairs of convolutions; every stage is concatenated."""

    def __init__(self, inner: int, outer: int, depth: int, *, residual: bool) -> None:
        super().__init__()
        half = outer // 2
        self.residual = residual
        self.enter = Conv(inner, outer)
        self.pairs = nn.ModuleList(nn.Sequential(Conv(half, half, 3), Conv(half, half, 3)) for _ in range(depth))
        self.leave = Conv((2 + depth) * half, outer)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps of the same size."""
        stages = list(self.enter(x).chunk(2, dim=1))
        for pair in self.pairs:
            y = pair(stages[-1])
            stages.append(stages[-1] + y if self.residual else y)
        return self.leave(torch.cat(stages, dim=1))  # type: ignore[no-any-return]


class Pool(nn.Module):
    """Three max poolings in a row, concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = Conv(channels, channels // 2)
        self.leave = Conv(channels * 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps of the same size."""
        maps = [self.enter(x)]
        for _ in range(3):
            maps.append(functional.max_pool2d(maps[-1], 5, 1, 2))
        return self.leave(torch.cat(maps, dim=1))  # type: ignore[no-any-return]


class Head(nn.Module):
    """Box bins and class scores of one scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.box = nn.Sequential(Conv(channels, 64, 3), Conv(64, 64, 3), nn.Conv2d(64, 4 * BINS, 1))
        self.label = nn.Sequential(Conv(channels, 80, 3), Conv(80, 80, 3), nn.Conv2d(80, CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 64 + classes, cells)."""
        return torch.cat((self.box(x), self.label(x)), dim=1).flatten(2)


class Detector(nn.Module):
    """Images (batch, 3, size, size) in 0 .. 1 to (batch, 4 + classes, cells): centre, width, height; scores."""

    def __init__(self, size: int = 320) -> None:
        super().__init__()
        self.cells: Tensor
        self.strides: Tensor
        self.bins: Tensor
        widths = (16, 32, 64, 128, 256)
        self.stem = Conv(3, widths[0], 3, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(Conv(inner, outer, 3, 2), Split(outer, outer, depth, residual=True))
            for (inner, outer), depth in zip(pairwise(widths), (1, 2, 2, 1), strict=True)
        )
        self.pool = Pool(256)
        self.up_16 = Split(256 + 128, 128, 1, residual=False)
        self.up_8 = Split(128 + 64, 64, 1, residual=False)
        self.down_16 = Conv(64, 64, 3, 2)
        self.join_16 = Split(64 + 128, 128, 1, residual=False)
        self.down_32 = Conv(128, 128, 3, 2)
        self.join_32 = Split(128 + 256, 256, 1, residual=False)
        self.heads = nn.ModuleList(Head(channels) for channels in (64, 128, 256))
        cells, strides = _cells(size)
        self.register_buffer("cells", cells)
        self.register_buffer("strides", strides)
        self.register_buffer("bins", torch.arange(BINS, dtype=torch.float32).reshape(1, 1, BINS, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Boxes in pixels and class scores of every cell."""
        x = self.stem(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        scale_8, scale_16, scale_32 = maps[1], maps[2], self.pool(maps[3])
        middle = self.up_16(torch.cat((functional.interpolate(scale_32, scale_factor=2.0), scale_16), dim=1))
        small = self.up_8(torch.cat((functional.interpolate(middle, scale_factor=2.0), scale_8), dim=1))
        middle = self.join_16(torch.cat((self.down_16(small), middle), dim=1))
        large = self.join_32(torch.cat((self.down_32(middle), scale_32), dim=1))
        found = torch.cat([head(x) for head, x in zip(self.heads, (small, middle, large), strict=True)], dim=2)
        sides, scores = torch.split(found, [4 * BINS, CLASSES], dim=1)
        return torch.cat((self._boxes(sides), scores.sigmoid()), dim=1)

    def _boxes(self, sides: Tensor) -> Tensor:
        """Distances to the four sides, as the mean of a distribution over bins, to centre, width and height."""
        bins = sides.reshape(-1, 4, BINS, sides.shape[2]).softmax(dim=2)
        distances = (bins * self.bins).sum(dim=2)
        low, high = self.cells - distances[:, :2], self.cells + distances[:, 2:]
        return torch.cat(((low + high) / 2, high - low), dim=1) * self.strides


def _cells(size: int) -> tuple[Tensor, Tensor]:
    """The centres of all cells in units of their stride, (1, 2, cells), and the strides, (1, 1, cells)."""
    centres, strides = [], []
    for stride in STRIDES:
        along = torch.arange(size // stride, dtype=torch.float32) + 0.5
        y, x = torch.meshgrid(along, along, indexing="ij")
        centres.append(torch.stack((x.flatten(), y.flatten())))
        strides.append(torch.full((1, centres[-1].shape[1]), float(stride)))
    return torch.cat(centres, dim=1)[None], torch.cat(strides, dim=1)[None]
