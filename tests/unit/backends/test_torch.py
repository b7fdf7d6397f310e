"""The torch backend where it differs from the others: modules by name, memory, threads, structure of arguments."""

from __future__ import annotations

import importlib
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fakes import tiny_nets
from fakes.packages import file_package, spec
from runoff.backends import table
from runoff.backends.protocol import Session, SessionOptions
from runoff.backends.torch_session import compile_module
from runoff.errors import FormatMismatch, RuntimeLoadError, RuntimeRunError
from runoff.models.folder import Package
from runoff.types import Device, DType, Precision, Signature

MLP = Signature((spec("x", "batch", 8),), (spec("y", "batch", 4),))
ROW3 = Signature((spec("x", "batch", 3),), (spec("y", "batch", 3),))


def _weights(
    tmp_path: Path, module: nn.Module, signature: Signature, requires: dict[str, Any] | None = None
) -> Package:
    path = tmp_path / "model.safetensors"
    save_file(module.state_dict(), path)
    named = {"module": f"fakes.tiny_nets:{type(module).__name__}"}
    return file_package(
        path, signature, backend="torch", format_id="safetensors", requires=named if requires is None else requires
    )


def _exported(tmp_path: Path, module: nn.Module, example: tuple[Any, ...], signature: Signature, **how: Any) -> Package:
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(module.eval(), example, **how), path)
    return file_package(path, signature, backend="torch", format_id="torch-export")


def _open(package: Package, **options: Any) -> Session:
    return table.backend("torch").open(package, SessionOptions(**options))


@pytest.mark.parametrize(
    ("requires", "reason"),
    [
        ({}, "names no module"),
        ({"module": "fakes.tiny_nets"}, "names no module"),
        ({"module": "fakes.tiny_nets:Nothing"}, "has no attribute 'Nothing'"),
        ({"module": "runoff_nowhere:Net"}, "No module named 'runoff_nowhere'"),
        ({"module": "fakes.tiny_nets:NOT_A_MODULE"}, "no subclass of torch.nn.Module"),
        ({"module": "builtins:eval"}, "no subclass of torch.nn.Module"),
        ({"module": "fakes.tiny_nets:Mlp", "kwargs": [1]}, "are no mapping"),
        ({"module": "fakes.tiny_nets:Mlp", "kwargs": {"depth": 2}}, "unexpected keyword argument 'depth'"),
        ({"module": "fakes.tiny_nets:Mlp", "kwargs": {"width": 5}}, "size mismatch"),
        ({"module": "fakes.tiny_nets:ConvNet"}, "Missing key"),
    ],
)
def test_module_that_does_not_fit_is_refused(tmp_path: Path, requires: dict[str, Any], reason: str) -> None:
    with pytest.raises(RuntimeLoadError, match=reason) as caught:
        _open(_weights(tmp_path, tiny_nets.Mlp(), MLP, requires))
    assert caught.value.hint


def test_kwargs_reach_the_module(tmp_path: Path) -> None:
    requires = {"module": "fakes.tiny_nets:Mlp", "kwargs": {"width": 5}}
    session = _open(_weights(tmp_path, tiny_nets.Mlp(width=5), MLP, requires))
    assert session.run({"x": np.ones((2, 8), np.float32)})["y"].shape == (2, 4)


def test_input_is_safe_when_the_module_writes_to_it(tmp_path: Path) -> None:
    x = np.zeros((2, 3), np.float32)
    (tmp_path / "named").mkdir()
    named = _open(_weights(tmp_path / "named", tiny_nets.WritesItsInput(), ROW3))
    exported = _open(_exported(tmp_path, tiny_nets.WritesItsInput(), (torch.zeros(2, 3),), ROW3))
    for session in (named, exported):
        np.testing.assert_array_equal(session.run({"x": x})["y"], np.ones((2, 3)))
        np.testing.assert_array_equal(x, np.zeros((2, 3)))


def test_weight_is_safe_when_the_module_answers_it(tmp_path: Path) -> None:
    signature = Signature(ROW3.inputs, (spec("weight", 3), spec("head", 2)))
    session = _open(_weights(tmp_path, tiny_nets.AnswersItsWeight(), signature))
    outputs = session.run({"x": np.zeros((1, 3), np.float32)})
    outputs["weight"][...] = 9
    assert outputs["head"].tolist() == [0, 1]
    assert session.run({"x": np.zeros((1, 3), np.float32)})["weight"].tolist() == [0, 1, 2]


def test_module_with_state_is_exclusive(tmp_path: Path) -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.add_(1)
            return x + self.seen

    session = _open(_exported(tmp_path, Counts(), (torch.zeros(2, 3),), ROW3))
    assert session.concurrency == "exclusive"


def test_threads_hold_in_whichever_thread_calls(tmp_path: Path) -> None:
    package = _weights(tmp_path, tiny_nets.Mlp(), MLP)
    one, two = _open(package, num_threads=1), _open(package, num_threads=2)
    seen: list[int] = []

    def work() -> None:
        for session in (two, one):
            session.run({"x": np.ones((1, 8), np.float32)})
            seen.append(torch.get_num_threads())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [2, 1]


def test_bf16_arrays_pass_both_ways(tmp_path: Path) -> None:
    signature = Signature((spec("x", "batch", 3, dtype=DType.BF16),), (spec("y", "batch", 3, dtype=DType.BF16),))
    session = _open(_weights(tmp_path, tiny_nets.WritesItsInput(), signature))
    x = np.array([[1, 2, 3]], ml_dtypes.bfloat16)
    x.flags.writeable = False
    outputs = session.run({"x": x})
    assert outputs["y"].dtype == ml_dtypes.bfloat16
    assert outputs["y"].astype(np.float32).tolist() == [[2, 3, 4]]


def test_arguments_keep_the_structure_of_the_export(tmp_path: Path) -> None:
    class Nested(nn.Module):
        def forward(self, pair: tuple[torch.Tensor, torch.Tensor], flag: bool, *, bias: torch.Tensor) -> Any:
            return (pair[0] - pair[1] if flag else pair[1]), {"biased": pair[0] + bias, "none": None}

    one, two, three = (np.full((2, 3), value, np.float32) for value in (1, 2, 3))
    inputs = (spec("a", 2, 3), spec("b", 2, 3), spec("c", 2, 3))
    signature = Signature(inputs, (spec("difference", 2, 3), spec("biased", 2, 3)))
    tensors = torch.zeros(2, 3), torch.zeros(2, 3)
    package = _exported(tmp_path, Nested(), (tensors, True), signature, kwargs={"bias": torch.zeros(2, 3)})
    outputs = _open(package).run({"a": one, "b": two, "c": three})
    assert (outputs["difference"][0, 0], outputs["biased"][0, 0]) == (-1, 4)


def test_signature_names_dynamic_dimensions(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, tokens: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return tokens * 2, image.sum((1, 2)) + tokens.sum(1)

    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    shapes = {"tokens": {0: batch, 1: length}, "image": {0: batch}}
    package = _exported(tmp_path, Two(), (torch.ones(2, 5), torch.ones(2, 3, 4)), ROW3, dynamic_shapes=shapes)
    signature = table.backend("torch").read_signature("torch-export", package.main_file)
    tokens, image = signature.inputs
    assert (image.shape, tokens.shape[0]) == (("batch", 3, 4), "batch")
    assert isinstance(tokens.shape[1], str)
    assert tokens.shape[1] != "batch"
    assert [output.shape for output in signature.outputs] == [tokens.shape, ("batch",)]


def test_weights_alone_have_no_signature(tmp_path: Path) -> None:
    package = _weights(tmp_path, tiny_nets.Mlp(), MLP)
    with pytest.raises(FormatMismatch, match="without a signature"):
        table.backend("torch").read_signature("safetensors", package.main_file)


def test_batch_outside_the_exported_range_is_a_run_error(tmp_path: Path) -> None:
    shapes = {"input": {0: torch.export.Dim("batch", min=2, max=4)}}
    package = _exported(tmp_path, nn.Linear(3, 3), (torch.ones(2, 3),), ROW3, dynamic_shapes=shapes)
    with pytest.raises(RuntimeRunError, match="PyTorch failed") as caught:
        _open(package).run({"x": np.ones((5, 3), np.float32)})
    assert caught.value.__cause__ is not None


def test_other_number_of_inputs_or_outputs_is_refused(tmp_path: Path) -> None:
    two_in = Signature((*ROW3.inputs, spec("z", 1)), ROW3.outputs)
    two_out = Signature(ROW3.inputs, (*ROW3.outputs, spec("z", 1)))
    with pytest.raises(RuntimeLoadError, match="has 1 inputs, the signature 2"):
        _open(_exported(tmp_path, nn.Linear(3, 3), (torch.ones(2, 3),), two_in))
    session = _open(_exported(tmp_path, nn.Linear(3, 3), (torch.ones(2, 3),), two_out))
    with pytest.raises(RuntimeRunError, match="gave 1 tensors, its signature names 2"):
        session.run({"x": np.ones((2, 3), np.float32)})


def test_dtype_spelt_out_in_a_module_is_a_run_error_at_another_precision(tmp_path: Path) -> None:
    inputs = (spec("ids", "batch", 6, dtype=DType.INT64), spec("weights", "batch", 6))
    signature = Signature(inputs, (spec("scores", "batch", 5), spec("total", "batch", dtype=DType.INT64)))
    session = _open(_weights(tmp_path, tiny_nets.Pooler(), signature), precision=Precision.BF16)
    with pytest.raises(RuntimeRunError, match="same dtype"):
        session.run({"ids": np.ones((1, 6), np.int64), "weights": np.ones((1, 6), np.float32)})


def test_quantised_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeLoadError, match=r"compute in fp32, bf16, fp16, or .* which is fp32 here, not int8"):
        _open(_weights(tmp_path, tiny_nets.Mlp(), MLP), precision=Precision.INT8)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_that_is_not_there_tells_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeLoadError, match=r"there is no device cuda: PyTorch .* sees 0 CUDA devices"):
        _open(_weights(tmp_path, tiny_nets.Mlp(), MLP), device=Device("cuda"))


def test_cuda_graph_on_the_cpu_is_refused(tmp_path: Path) -> None:
    package = _exported(tmp_path, tiny_nets.Mlp(), (torch.ones(2, 8),), MLP)
    with pytest.raises(RuntimeLoadError, match="cuda_graph cannot be used: device cpu has no CUDA graphs"):
        _open(package, backend={"cuda_graph": True})


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save(tiny_nets.Mlp().state_dict(), path)
    package = file_package(
        path, MLP, backend="torch", format_id="safetensors", requires={"module": "fakes.tiny_nets:Mlp"}
    )
    with pytest.raises(RuntimeLoadError, match="does not take the weights"):
        _open(package)


@pytest.mark.parametrize(("freeze", "arguments"), [(True, [1]), (False, [])])
def test_frozen_code_takes_the_inputs_only(freeze: bool, arguments: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    module, rows = tiny_nets.Mlp().eval(), torch.ones(2, 8)
    compiled = compile_module(module, {"freeze": freeze})
    freezing = importlib.import_module("torch._inductor.freezing")
    fold = freezing.freeze

    def watched(*given: Any) -> Any:
        folded = fold(*given)
        left.append(len(folded[1]))
        return folded

    monkeypatch.setattr(freezing, "freeze", watched)
    with torch.inference_mode():
        for _ in range(2):
            assert torch.allclose(compiled(rows)["y"], module(rows)["y"], atol=1e-6)
    assert left == arguments, "the weights are constants of the code"
    assert not torch._inductor.config.freezing, "the setting is the process's"
