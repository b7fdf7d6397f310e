"""PyTorch on CUDA: where tensors lie, and graphs that are recorded and replayed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conformance.builders import NETS, build
from device import needs
from fakes import tiny_nets
from runoff.backends import table
from runoff.backends.protocol import SessionOptions
from runoff.backends.torch_graphs import RecordedForward
from runoff.errors import RuntimeLoadError
from runoff.types import Device

pytestmark = pytest.mark.skipif(needs.torch_cuda() is not None, reason=str(needs.torch_cuda()))
CUDA = Device("cuda")


def test_weights_lie_on_the_gpu_and_answers_are_those_of_the_cpu(tmp_path: Path) -> None:
    net = NETS["conv"]
    package = build(tmp_path, net, "torch-export")
    before = torch.cuda.memory_allocated()
    session = table.backend("torch").open(package, SessionOptions(CUDA))
    assert torch.cuda.memory_allocated() > before
    inputs = net.inputs(4)
    for name, array in session.run(inputs).items():
        np.testing.assert_allclose(array, net.reference(inputs)[name], rtol=1e-3, atol=1e-4)
    session.close()


def test_graph_is_recorded_once_for_each_shape() -> None:
    torch.manual_seed(0)
    module = tiny_nets.Mlp().eval().cuda()
    calls = 0

    def forward(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        nonlocal calls
        calls += 1
        return list(module(*tensors).values())

    recorded = RecordedForward(forward, torch.device("cuda", 0))
    with torch.inference_mode():
        for _ in range(3):
            for rows in (2, 5):
                x = torch.randn(rows, 8, device="cuda")
                got = recorded([x])[0].clone()
                torch.testing.assert_close(got, module(x)["y"], rtol=1e-3, atol=1e-4)
    assert calls == 2 * (3 + 1)


def test_module_that_may_keep_state_is_not_recorded(tmp_path: Path) -> None:
    package = build(tmp_path, NETS["mlp"], "safetensors")
    with pytest.raises(RuntimeLoadError, match="may keep state"):
        table.backend("torch").open(package, SessionOptions(CUDA, backend={"cuda_graph": True}))


def test_graphs_and_compilation_exclude_each_other(tmp_path: Path) -> None:
    package = build(tmp_path, NETS["mlp"], "torch-export")
    with pytest.raises(RuntimeLoadError, match="a compiled module records its own"):
        table.backend("torch").open(package, SessionOptions(CUDA, backend={"cuda_graph": True, "compile": True}))
