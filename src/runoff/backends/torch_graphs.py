"""CUDA graphs of a PyTorch callable: recorded once for each shape of the inputs, then replayed.

A graph reads and writes fixed memory: inputs are copied into its own, and its outputs are overwritten by the next run,
so a session copies them to the host. Follows PyTorch's notes on CUDA graphs; it has never run on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from runoff.backends.torch_session import Forward

_MOST_GRAPHS = 8
"""Shapes whose graphs are kept; each holds the memory of one run."""
_WARMUP_RUNS = 3
"""PyTorch's libraries choose algorithms and allocate workspaces in their first runs, which must not be recorded."""


class _Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[torch.Tensor]
    outputs: Sequence[torch.Tensor]


class RecordedForward:
    """A callable over tensors on a CUDA device, replayed as a graph; not for several threads at once."""

    def __init__(self, forward: Forward, device: torch.device) -> None:
        self._forward = forward
        self._device = device
        self._recorded: dict[tuple[object, ...], _Recorded] = {}

    def __call__(self, tensors: list[torch.Tensor]) -> Sequence[torch.Tensor]:
        """The outputs, valid until the next call."""
        key = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        with torch.cuda.device(self._device):
            found = self._recorded.get(key)
            if found is None:
                while len(self._recorded) >= _MOST_GRAPHS:
                    self._recorded.pop(next(iter(self._recorded)))
                found = self._recorded[key] = self._record(tensors)
            for own, given in zip(found.inputs, tensors, strict=True):
                own.copy_(given)
            found.graph.replay()
        return found.outputs

    def _record(self, tensors: list[torch.Tensor]) -> _Recorded:
        inputs = [tensor.clone() for tensor in tensors]
        make_stream: Any = torch.cuda.Stream
        side = make_stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARMUP_RUNS):
                self._forward(inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._forward(inputs)
        return _Recorded(graph, inputs, outputs)
