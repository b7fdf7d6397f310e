"""ONNX Runtime on CUDA and through its TensorRT provider, bound and unbound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.builders import NETS, build
from device import needs
from runoff.backends import table
from runoff.backends.protocol import Session, SessionOptions
from runoff.types import Device

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
need_cuda = pytest.mark.skipif(needs.provider(CUDA) is not None, reason=str(needs.provider(CUDA)))
need_tensorrt = pytest.mark.skipif(needs.provider(TENSORRT) is not None, reason=str(needs.provider(TENSORRT)))


def _open(root: Path, net: str, form: str = "onnx", **options: Any) -> Session:
    return table.backend("onnx").open(build(root, NETS[net], form), SessionOptions(Device("cuda"), backend=options))


@need_cuda
@pytest.mark.parametrize("bound", [True, False])
def test_binding_changes_no_answer(tmp_path: Path, bound: bool) -> None:
    net = NETS["pooler"]
    session = _open(tmp_path, "pooler", io_binding=bound)
    assert session.facts["providers"][0] == CUDA
    assert session.facts["io_binding"] is bound
    inputs = net.inputs(3)
    for name, array in session.run(inputs).items():
        np.testing.assert_allclose(array, net.reference(inputs)[name], rtol=1e-3, atol=1e-4)


@need_cuda
def test_device_memory_is_bound_unless_told_otherwise(tmp_path: Path) -> None:
    assert _open(tmp_path, "mlp", "onnx/fp16").facts["io_binding"] is True


@need_tensorrt
@pytest.mark.parametrize("half", [True, False])
def test_tensorrt_provider_answers_as_the_reference(tmp_path: Path, half: bool) -> None:
    net = NETS["conv"]
    session = _open(tmp_path, "conv", providers=[(TENSORRT, {"trt_fp16_enable": half}), CUDA])
    assert session.facts["providers"][0] == TENSORRT
    inputs = net.inputs(3)
    for name, array in session.run(inputs).items():
        wanted = net.reference(inputs)[name]
        assert np.abs(array - wanted).max() / np.abs(wanted).max() < (1e-2 if half else 5e-3)
