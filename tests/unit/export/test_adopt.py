from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import runoff
from fakes.networks import Mlp
from runoff.auto import AutoModel
from runoff.backends import table
from runoff.backends.protocol import SessionOptions
from runoff.environment.libraries import is_importable
from runoff.errors import (
    BackendNotInstalled,
    FormatMismatch,
    ModelError,
    ModelNotFound,
    NoCandidate,
    PathEscapes,
    RuntimeLoadError,
)
from runoff.export.adopt import adopt
from runoff.export.run import ExportOptions, export_package
from runoff.export.step import quiet
from runoff.models.arrays import Array, Arrays, read_npz
from runoff.models.folder import ModelFolder, Package
from runoff.models.samples import generate_inputs
from runoff.race.inputs import find_inputs
from runoff.race.options import RaceOptions
from runoff.types import Precision


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.onnx, net.pt2, net.xml and net.bin: the same network in each."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("bare")
    folder = runoff.package(Mlp(), torch.randn(2, 4), root / "source")
    folder = export_package(export_package(folder, "onnx", Precision.FP32), "openvino", Precision.FP32)
    for package_id, name in (("torch-fp32", "net.pt2"), ("onnx-fp32", "net.onnx"), ("openvino-fp32", "net.xml")):
        shutil.copyfile(folder.package(package_id).main_file, root / name)
    shutil.copyfile(folder.package("openvino-fp32").main_file.with_suffix(".bin"), root / "net.bin")
    shutil.rmtree(root / "source")
    return root


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a tiny encoder with random weights."""
    import transformers

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("hf") / "bert"
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    transformers.BertModel(config).save_pretrained(root)
    (root / "pytorch_model.bin").write_bytes(b"the same weights, pickled")
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _run(package: Package, inputs: Arrays) -> dict[str, Array]:
    session = table.backend(package.entry.backend).open(package, SessionOptions())
    try:
        return session.run(inputs)
    finally:
        session.close()


def _golden(folder: ModelFolder) -> tuple[dict[str, Array], dict[str, Array]]:
    golden = folder.manifest.golden
    assert golden is not None
    return read_npz(folder.file(golden.inputs)), read_npz(folder.file(golden.outputs))


@pytest.mark.parametrize(
    ("name", "package_id"), [("net.onnx", "onnx-fp32"), ("net.pt2", "torch-fp32"), ("net.xml", "openvino-fp32")]
)
def test_bare_file_becomes_a_folder_that_answers_its_golden_pair(
    bare: Path, cache: Path, name: str, package_id: str
) -> None:
    folder = adopt(bare / name)
    assert folder.root.is_relative_to(cache)
    assert (folder.manifest.name, folder.manifest.reference) == ("net", package_id)
    assert folder.reference.entry.batch == "dynamic"
    folder.reference.verify()
    inputs, outputs = _golden(folder)
    found = _run(folder.reference, inputs)
    assert list(found) == list(outputs)
    assert all(np.allclose(found[key], array, atol=1e-6) for key, array in outputs.items())


def test_folder_is_reused_without_work_when_the_content_is_the_same(bare: Path, tmp_path: Path) -> None:
    first = adopt(bare / "net.onnx")
    stamp = (first.root / "runoff.json").stat().st_mtime_ns
    copy = tmp_path / "copy.onnx"
    shutil.copyfile(bare / "net.onnx", copy)
    assert adopt(copy).root == first.root == adopt(bare / "net.onnx").root
    assert (first.root / "runoff.json").stat().st_mtime_ns == stamp


def test_other_content_under_the_same_name_is_another_folder(bare: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    shutil.copyfile(bare / "net.onnx", path)
    first = adopt(path)
    model = onnx.load(path)
    model.producer_name = "another"
    path.unlink()
    onnx.save(model, path)
    second = adopt(path)
    assert first.root != second.root
    first.reference.verify()


def test_folder_is_made_again_when_its_file_was_rewritten_in_place(bare: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    shutil.copyfile(bare / "net.onnx", path)
    first = adopt(path)
    model = onnx.load(path)
    model.producer_name = "another"
    onnx.save(model, path)
    adopt(path).reference.verify()
    again = adopt(bare / "net.onnx")
    assert again.root == first.root
    again.reference.verify()


def test_model_folder_is_answered_as_it_is(bare: Path) -> None:
    folder = adopt(bare / "net.onnx")
    assert adopt(folder.root) == folder


def test_folder_and_name_are_those_asked_for(bare: Path, tmp_path: Path) -> None:
    folder = adopt(bare / "net.onnx", name="mine", into=tmp_path / "here")
    assert (folder.root, folder.manifest.name) == (tmp_path / "here", "mine")
    assert adopt(bare / "net.onnx", into=tmp_path / "here") == folder
    with pytest.raises(ModelError, match="not empty"):
        adopt(bare / "net.pt2", into=tmp_path / "here")


def test_hugging_face_folder_is_exported_with_dynamic_batch_and_sequence(bert: Path) -> None:
    folder = adopt(bert)
    assert folder.manifest.reference == "hf-fp32"
    assert "pytorch_model.bin" not in [Path(file.path).name for file in folder.reference.entry.files]
    assert folder.manifest.signature.inputs[0].shape == ("batch", "sequence")
    folder = export_package(folder, "onnx", Precision.FP32)
    folder = export_package(folder, "openvino", Precision.FP32)
    assert [package.id for package in folder.packages] == ["hf-fp32", "torch-fp32", "onnx-fp32", "openvino-fp32"]
    for rows, length in ((1, 5), (3, 64)):
        inputs = generate_inputs(
            folder.manifest.signature, rows=rows, seed=1, sizes={"sequence": length}, limits={"input_ids": 40}
        )
        inputs["attention_mask"][:, length // 2 :] = 0
        expected = _run(folder.reference, inputs)
        for package in folder.packages:
            found = _run(package, inputs)
            assert all(np.allclose(found[key], array, atol=1e-4) for key, array in expected.items()), package.id


def test_half_precision_is_read_from_the_weights(bare: Path, tmp_path: Path) -> None:
    folder = export_package(adopt(bare / "net.onnx"), "onnx", Precision.FP16)
    path = tmp_path / "half.onnx"
    shutil.copyfile(folder.package("onnx-fp16").main_file, path)
    assert adopt(path).manifest.reference == "onnx-fp16"


def test_weights_beside_an_onnx_file_come_along(bare: Path, tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    onnx.save(onnx.load(bare / "net.onnx"), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    folder = adopt(path)
    assert [Path(file.path).name for file in folder.reference.entry.files] == ["model.onnx", "weights.bin"]
    inputs, outputs = _golden(folder)
    assert np.allclose(_run(folder.reference, inputs)["output_0"], outputs["output_0"])


def test_fixed_batch_is_noted_and_a_small_vocabulary_is_respected(tmp_path: Path) -> None:
    table_of_three = helper.make_tensor("w", TensorProto.FLOAT, (3, 2), range(6))
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "token"], ["vector"])],
        "g",
        [helper.make_tensor_value_info("token", TensorProto.INT64, (5,))],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, (5, 2))],
        [table_of_three],
    )
    path = tmp_path / "lookup.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    folder = adopt(path)
    assert folder.reference.entry.batch == 5
    inputs, _ = _golden(folder)
    assert inputs["token"].max() < 2


def test_file_is_refused_when_it_is_not_there_or_not_what_it_says(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        adopt(tmp_path / "none.onnx")
    fake = tmp_path / "fake.onnx"
    fake.write_bytes(b"PK\x03\x04 not a protobuf")
    with pytest.raises(FormatMismatch):
        adopt(fake)


def test_runtime_refuses_a_file_in_words_and_nothing_is_kept(bare: Path, tmp_path: Path, cache: Path) -> None:
    model = onnx.load(bare / "net.onnx")
    model.graph.node[0].op_type = "NoSuchOperator"
    path = tmp_path / "odd.onnx"
    onnx.save(model, path)
    with pytest.raises((RuntimeLoadError, FormatMismatch), match="NoSuchOperator"):
        adopt(path)
    assert list((cache / "models").iterdir()) == []


def test_weights_alone_are_refused_with_a_way_out(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"w": np.ones(3, np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="weights without a network") as caught:
        adopt(tmp_path / "w.safetensors")
    assert "runoff.package" in (caught.value.hint or "")


def test_precision_of_a_hugging_face_folder_is_that_of_its_weights(bert: Path, tmp_path: Path) -> None:
    import transformers

    root = tmp_path / "half"
    transformers.BertModel.from_pretrained(bert, dtype=torch.bfloat16).save_pretrained(root)
    assert json.loads((root / "config.json").read_text())["dtype"] == "bfloat16"
    folder = adopt(root)
    assert folder.manifest.reference == "hf-bf16"
    assert export_package(folder, "torch-export", Precision.FP32).package("torch-fp32")


@pytest.mark.parametrize("name", ["net.engine", "net.plan"])
def test_bare_engine_is_refused_with_what_would_open_it(name: str, tmp_path: Path) -> None:
    if is_importable("tensorrt"):
        pytest.skip("TensorRT is installed")
    (tmp_path / name).write_bytes(b"ftrt\0\1\2\3")
    with pytest.raises(BackendNotInstalled, match="no backend that opens the format 'trt' is installed") as caught:
        adopt(tmp_path / name)
    assert caught.value.hint == "pip install 'runoff[trt10]'"


def test_short_table_of_positions_limits_the_generated_sequence(tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=20,
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "short")
    folder = adopt(tmp_path / "short")
    inputs, _ = _golden(folder)
    assert inputs["input_ids"].shape == (4, 18)
    exported = export_package(folder, "onnx", Precision.FP32)
    found = find_inputs(exported, RaceOptions())
    assert found.arrays["input_ids"].shape[1] == 18
    outputs = _run(exported.package("onnx-fp32"), found.arrays)
    assert np.isfinite(outputs["last_hidden_state"]).all()


def test_core_ml_package_is_described_and_refused_where_it_cannot_run(tmp_path: Path) -> None:
    with quiet():
        import coremltools
    source = runoff.package(Mlp(), torch.randn(2, 4), tmp_path / "source")
    made = export_package(source, "mlpackage", Precision.FP16, ExportOptions(batch=2))
    entry = next(entry for entry in made.manifest.packages if entry.backend == "coreml")
    bare = tmp_path / "net.mlpackage"
    shutil.copytree(made.package(entry.id).folder, bare)
    folder = adopt(bare)
    assert (folder.manifest.name, folder.manifest.reference) == ("net", "coreml-fp16")
    assert folder.manifest.signature.inputs[0].shape == (2, 4)
    assert folder.reference.main_file.as_posix().endswith("model.mlpackage/Manifest.json")
    folder.reference.verify()
    assert coremltools.utils.load_spec(str(folder.reference.folder)).HasField("mlProgram")
    assert "coreml-fp16" in [package.id for package in AutoModel.describe_model(folder.root).packages]
    if sys.platform != "darwin":
        assert folder.manifest.golden is None
        with pytest.raises(NoCandidate, match="Core ML runs on macOS only"):
            AutoModel.from_pretrained(bare)


def test_external_data_outside_of_the_folder_is_refused(bare: Path, tmp_path: Path) -> None:
    model = onnx.load(bare / "net.onnx")
    (tmp_path / "inner").mkdir()
    for place, name in (("../outside.bin", "up"), ("/etc/hostname", "absolute")):
        for tensor in model.graph.initializer:
            tensor.ClearField("raw_data")
            tensor.ClearField("external_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=place)
        path = tmp_path / "inner" / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        (tmp_path / "outside.bin").write_bytes(b"\0" * 4096)
        with pytest.raises((PathEscapes, FormatMismatch), match=r"not a plain path|outside|absolute"):
            adopt(path)
