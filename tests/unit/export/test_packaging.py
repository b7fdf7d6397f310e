from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import runoff
from fakes.networks import BatchBound, Branching, ConvNet, Mlp
from runoff.backends import table
from runoff.backends.protocol import SessionOptions
from runoff.errors import ExportError, InputError, ModelError
from runoff.export.packaging import PackagingOptions
from runoff.models.arrays import read_npz
from runoff.models.folder import ModelFolder, read_folder
from runoff.types import DType, Precision, TensorSpec


def _golden(folder: ModelFolder) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    golden = folder.manifest.golden
    assert golden is not None
    return read_npz(folder.file(golden.inputs)), read_npz(folder.file(golden.outputs))


def _run(folder: ModelFolder, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = table.backend("torch").open(folder.reference, SessionOptions())
    try:
        return session.run(inputs)
    finally:
        session.close()


def test_module_becomes_a_folder_whose_reference_answers_the_golden_pair(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Mlp()
    made = runoff.package(net, {"features": np.ones((3, 4), np.float32)}, tmp_path / "mlp", task="scores")
    folder = read_folder(made.root)
    assert (folder.manifest.name, folder.manifest.task) == ("mlp", "scores")
    assert folder.manifest.signature.inputs == (TensorSpec("features", DType.FP32, ("batch", 4)),)
    assert folder.manifest.signature.outputs == (TensorSpec("output_0", DType.FP32, ("batch", 3)),)
    assert folder.reference.id == "torch-fp32"
    inputs, outputs = _golden(folder)
    assert np.allclose(_run(folder, inputs)["output_0"], outputs["output_0"], atol=1e-6)
    with torch.no_grad():
        eager = net.eval()(torch.from_numpy(inputs["features"])).numpy()
    assert np.allclose(eager, outputs["output_0"], atol=1e-6)


def test_training_mode_of_every_part_comes_back(tmp_path: Path) -> None:
    net = Mlp().train()
    net.layers[2].eval()
    modes = [part.training for part in net.modules()]
    runoff.package(net, torch.ones(2, 4), tmp_path / "m")
    assert [part.training for part in net.modules()] == modes


def test_archive_runs_at_any_batch_when_the_example_has_one_row(tmp_path: Path) -> None:
    folder = runoff.package(Mlp(), torch.ones(1, 4), tmp_path / "m")
    inputs, _ = _golden(folder)
    assert inputs["features"].shape == (2, 4)
    assert not np.array_equal(inputs["features"][0], inputs["features"][1])
    for rows in (1, 6):
        assert _run(folder, {"features": np.ones((rows, 4), np.float32)})["output_0"].shape == (rows, 3)


def test_outputs_are_chosen_and_ordered_by_key_when_the_module_answers_a_mapping(tmp_path: Path) -> None:
    example = (torch.ones(2, 1, 8, 8), torch.ones(2, 1))
    folder = runoff.package(ConvNet(), example, tmp_path / "m", options=PackagingOptions(outputs=["logits"]))
    assert [str(spec) for spec in folder.manifest.signature.inputs] == [
        "image: fp32[batch, 1, 8, 8]",
        "scale: fp32[batch, 1]",
    ]
    assert [str(spec) for spec in folder.manifest.signature.outputs] == ["logits: fp32[batch, 10]"]


def test_further_dimensions_stay_dynamic_when_they_are_named(tmp_path: Path) -> None:
    net = nn.Conv1d(2, 3, 3, padding=1)
    options = PackagingOptions(dynamic={"input": {2: "time"}}, outputs=["y"])
    folder = runoff.package(net, torch.ones(2, 2, 9), tmp_path / "m", options=options)
    assert folder.manifest.signature.outputs[0].shape == ("batch", 3, "time")
    assert _run(folder, {"input": np.ones((1, 2, 31), np.float32)})["y"].shape == (1, 3, 31)


def test_dimensions_stay_apart_when_the_example_makes_them_equal(tmp_path: Path) -> None:
    options = PackagingOptions(dynamic={"input": {2: "time"}})
    folder = runoff.package(nn.Conv1d(2, 3, 3, padding=1), torch.ones(9, 2, 9), tmp_path / "m", options=options)
    for rows, time in ((4, 9), (9, 5)):
        assert _run(folder, {"input": np.ones((rows, 2, time), np.float32)})["output_0"].shape == (rows, 3, time)


def test_labels_preprocess_and_evaluation_are_stored(tmp_path: Path) -> None:
    data = ({"features": np.ones((5, 4), np.float32)}, np.arange(5) % 3)
    options = PackagingOptions(labels=["a", "b", "c"], preprocess={"size": [8, 8]}, evaluation=data)
    folder = runoff.package(Mlp(), torch.ones(2, 4), tmp_path / "m", options=options)
    manifest = read_folder(folder.root).manifest
    assert manifest.labels is not None and manifest.evaluation is not None
    assert folder.file(manifest.labels).read_text() == "a\nb\nc\n"
    assert manifest.preprocess == {"size": [8, 8]}
    assert np.load(folder.file(manifest.evaluation.labels)).tolist() == [0, 1, 2, 0, 1]


def test_weights_and_dotted_name_are_kept_when_code_is_asked_for(tmp_path: Path) -> None:
    options = PackagingOptions(keep="code", arguments={"hidden": 6})
    folder = runoff.package(Mlp(6), torch.ones(2, 4), tmp_path / "m", options=options)
    entry = folder.reference.entry
    assert entry.format == "safetensors"
    assert entry.requires == {"module": "fakes.networks:Mlp", "kwargs": {"hidden": 6}}
    inputs, outputs = _golden(folder)
    assert np.allclose(_run(folder, inputs)["output_0"], outputs["output_0"], atol=1e-6)


def test_half_precision_module_says_so(tmp_path: Path) -> None:
    folder = runoff.package(Mlp().bfloat16(), torch.ones(2, 4, dtype=torch.bfloat16), tmp_path / "m")
    assert folder.reference.id == "torch-bf16"
    assert folder.reference.entry.precision is Precision.BF16
    assert folder.manifest.signature.inputs[0].dtype is DType.BF16


def test_batch_is_fixed_when_it_is_asked_for(tmp_path: Path) -> None:
    folder = runoff.package(BatchBound(3), torch.ones(1, 4), tmp_path / "m", options=PackagingOptions(batch=3))
    assert folder.reference.entry.batch == 3
    assert folder.manifest.signature.inputs[0].shape == (3, 4)


def test_hint_is_to_fix_the_batch_when_the_module_knows_it_by_heart(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="works at batch 3 but not at batch 4") as caught:
        runoff.package(BatchBound(3), torch.ones(3, 4), tmp_path / "m")
    assert "batch=N" in (caught.value.hint or "")
    assert not (tmp_path / "m").exists()


def test_hint_is_about_control_flow_when_it_depends_on_values(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"torch\.export cannot capture Branching") as caught:
        runoff.package(Branching(), torch.ones(2, 4), tmp_path / "m")
    assert "torch.where" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("module", "inputs", "options", "message"),
    [
        (object(), torch.ones(2, 4), None, "expected a torch.nn.Module"),
        (Mlp(), {"wrong": torch.ones(2, 4)}, None, "unknown wrong; missing features"),
        (Mlp(), (torch.ones(2, 4), torch.ones(2)), None, "2 example inputs"),
        (Mlp(), {}, None, "missing features"),
        (Mlp(), torch.ones(0, 4), None, "have no row"),
        (Mlp(), torch.ones(2, 4), PackagingOptions(outputs=["a", "b"]), "1 outputs, 2 names"),
        (Mlp(), torch.ones(2, 4), PackagingOptions(batch=0), "neither 'dynamic' nor a positive number"),
        (Mlp(), torch.ones(2, 4), PackagingOptions(dynamic={"x": {1: "time"}}), "dynamic names the input 'x'"),
        (Mlp(), torch.ones(2, 4), PackagingOptions(dynamic={"features": {3: "time"}}), "dynamic names axis 3"),
        (Mlp(), torch.ones(2, 4), PackagingOptions(labels=["a", ""]), "the label '' is empty"),
        (
            Mlp(),
            torch.ones(2, 4),
            PackagingOptions(evaluation=({}, np.ones(1, np.int64))),
            "evaluation inputs are none",
        ),
        (
            Mlp(),
            torch.ones(2, 4),
            PackagingOptions(evaluation=({"features": np.ones((2, 4))}, np.ones(3, np.int64))),
            "expected one integer a row",
        ),
        (
            Mlp(),
            torch.ones(2, 4),
            PackagingOptions(evaluation=({"features": np.ones((2, 5), np.float32)}, np.ones(2, np.int64))),
            "evaluation input 'features' is",
        ),
        (Mlp(), torch.ones(2, 4), PackagingOptions(preprocess={"x": object()}), "preprocess must be data"),
    ],
)
def test_input_is_refused_when_it_does_not_fit(
    tmp_path: Path, module: object, inputs: object, options: PackagingOptions | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        runoff.package(module, inputs, tmp_path / "m", options=options)
    assert list(tmp_path.iterdir()) == []


def test_failure_of_the_module_itself_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Mlp fails on its example inputs"):
        runoff.package(Mlp(), torch.ones(2, 5), tmp_path / "m")


def test_code_is_refused_when_its_class_cannot_be_imported(tmp_path: Path) -> None:
    class Local(nn.Linear):
        pass

    with pytest.raises(ExportError, match="needs a class that can be imported"):
        runoff.package(Local(4, 2), torch.ones(2, 4), tmp_path / "m", options=PackagingOptions(keep="code"))


def test_code_is_refused_when_its_arguments_are_missing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be built again") as caught:
        runoff.package(Mlp(6), torch.ones(2, 4), tmp_path / "m", options=PackagingOptions(keep="code"))
    assert "arguments" in (caught.value.hint or "")


def test_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ModelError, match="not empty"):
        runoff.package(Mlp(), torch.ones(2, 4), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
