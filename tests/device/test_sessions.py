"""The body that every backend passes, on a GPU: PyTorch, ONNX Runtime and TensorRT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conformance.builders import NETS, Net, build
from conformance.test_session import (
    Case,
    test_file_tells_its_signature,
    test_inputs_stay_as_they_are,
    test_inputs_that_do_not_fit_are_refused,
    test_nan_is_taken_and_stays_in_its_row,
    test_outputs_belong_to_the_caller,
    test_outputs_match_the_reference,
    test_read_only_inputs_are_accepted,
    test_right_answers_when_several_threads_run,
    test_run_is_refused_after_close,
    test_signature_is_the_packages,
    test_strided_inputs_are_accepted,
    test_unaligned_inputs_are_accepted,
)
from device import needs
from device.engines import build_engine
from runoff.backends import table
from runoff.backends.protocol import Session, SessionOptions
from runoff.models.folder import Package
from runoff.types import Device, Precision

CUDA = Device("cuda")
_FULL_FP32 = ("CUDAExecutionProvider", {"use_tf32": "0"})
__all__ = [
    "test_file_tells_its_signature",
    "test_inputs_stay_as_they_are",
    "test_inputs_that_do_not_fit_are_refused",
    "test_nan_is_taken_and_stays_in_its_row",
    "test_outputs_belong_to_the_caller",
    "test_outputs_match_the_reference",
    "test_read_only_inputs_are_accepted",
    "test_right_answers_when_several_threads_run",
    "test_run_is_refused_after_close",
    "test_signature_is_the_packages",
    "test_strided_inputs_are_accepted",
    "test_unaligned_inputs_are_accepted",
]


@dataclass(frozen=True)
class GpuCase(Case):
    """A case on the first GPU."""

    def session_options(self, num_threads: int = 1) -> SessionOptions:
        return SessionOptions(CUDA, precision=self.precision, backend=self.options)


def _cases() -> Iterator[tuple[Case, str | None]]:
    torch, onnx = needs.torch_cuda(), needs.provider("CUDAExecutionProvider")
    for net in ("mlp", "conv", "pooler"):
        yield GpuCase("torch", "torch-export", net), torch
        yield GpuCase("torch", "torch-export", net, None, {"cuda_graph": True}), torch
        yield GpuCase("onnx", "onnx", net, None, {"providers": [_FULL_FP32]}), onnx
        yield GpuCase("trt", "trt", net), needs.tensorrt()
        yield GpuCase("trt", "trt", net, None, {"cuda_graph": True}), needs.tensorrt()
    for net in ("mlp", "conv"):
        yield GpuCase("torch", "torch-export", net, Precision.FP16), torch
        yield GpuCase("onnx", "onnx/fp16", net), onnx
        yield GpuCase("trt", "trt/fp16", net), needs.tensorrt()
    yield GpuCase("torch", "torch-export", "conv", None, {"compile": True, "compile_mode": "reduce-overhead"}), torch


def _param(case: Case, why: str | None) -> object:
    return pytest.param(case, id=str(case), marks=[pytest.mark.skip(reason=why)] if why else [])


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=[_param(*each) for each in _cases()])
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def net(case: Case) -> Net:
    return NETS[case.net]


@pytest.fixture(scope="module")
def package(case: Case, net: Net, root: Path) -> Package:
    format_id, _, precision = case.form.partition("/")
    if format_id == "trt":
        return build_engine(root, net, Precision(precision or "fp32"))
    return build(root, net, case.form)


@pytest.fixture(scope="module")
def session(case: Case, package: Package) -> Iterator[Session]:
    opened = table.backend(case.backend).open(package, case.session_options())
    yield opened
    opened.close()


def test_facts_name_the_gpu(session: Session) -> None:
    assert str(session.facts["device"]).startswith("cuda")
