"""The hf backend where it differs from the others: what it refuses to run, and signatures by kind of model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from runoff.backends import table
from runoff.backends.protocol import Session, SessionOptions
from runoff.errors import FormatMismatch, RuntimeLoadError
from runoff.models.folder import Package, describe_tree
from runoff.models.manifest import PackageEntry
from runoff.types import DType, Precision, Signature, TensorSpec

SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 16}


def _save(folder: Path, model: Any) -> Path:
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    logging.enable_progress_bar()
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = transformers.BertConfig(vocab_size=20, max_position_embeddings=16, **SMALL)
    return _save(tmp_path_factory.mktemp("bert"), transformers.BertForSequenceClassification(config))


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bert, tmp_path / "model")


def _read(folder: Path) -> Signature:
    return table.backend("hf").read_signature("hf", folder)


def _edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _open(folder: Path, **options: Any) -> Session:
    entry = PackageEntry("hf-fp32", "hf", "hf", Precision.FP32, describe_tree(folder, folder, "config.json"))
    package = Package(folder, entry, _read(folder))
    return table.backend("hf").open(package, SessionOptions(**options))


def test_missing_weight_is_refused_rather_than_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FormatMismatch, match=r"lacks weights of BertForSequenceClassification: classifier\.weight"):
        _read(folder)


def test_class_that_transformers_lacks_is_refused(folder: Path) -> None:
    _edit_config(folder, architectures=["ShinyNewModel"])
    with pytest.raises(FormatMismatch, match="no model class 'ShinyNewModel'"):
        _read(folder)


def test_class_that_is_no_model_is_refused(folder: Path) -> None:
    _edit_config(folder, architectures=["pipeline"])
    with pytest.raises(FormatMismatch, match="no model class 'pipeline'"):
        _read(folder)


def test_code_in_the_folder_does_not_run(folder: Path) -> None:
    (folder / "modeling_harm.py").write_text(f"open({str(folder / 'harm')!r}, 'w').close()\n")
    _edit_config(
        folder,
        model_type="harm",
        auto_map={"AutoConfig": "modeling_harm.Config", "AutoModel": "modeling_harm.Model"},
    )
    with pytest.raises(FormatMismatch, match="cannot open"):
        _read(folder)
    assert not (folder / "harm").exists()


def test_pickled_weights_are_refused(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FormatMismatch, match="cannot open"):
        _read(folder)


def test_opening_is_silent_and_leaves_the_library_as_it_was(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    _open(folder).close()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_attention_is_the_one_asked_for(folder: Path) -> None:
    for name in ("eager", "sdpa"):
        assert _open(folder, backend={"attn_implementation": name}).facts["attn_implementation"] == name


def test_half_precision_answers_fp32(folder: Path) -> None:
    session = _open(folder, precision=Precision.FP16)
    inputs = {spec.name: np.ones((2, 3), np.int64) for spec in session.signature.inputs}
    assert session.run(inputs)["logits"].dtype == np.float32
    assert session.facts["precision"] == "fp16"


def test_damaged_folder_is_a_load_error(folder: Path) -> None:
    signature = _read(folder)
    (folder / "config.json").write_text("{")
    entry = PackageEntry("hf-fp32", "hf", "hf", Precision.FP32, describe_tree(folder, folder, "config.json"))
    with pytest.raises(RuntimeLoadError, match="cannot open package 'hf-fp32'"):
        table.backend("hf").open(Package(folder, entry, signature), SessionOptions())


def _int64(name: str, axis: str) -> TensorSpec:
    return TensorSpec(name, DType.INT64, ("batch", axis))


def test_causal_model_has_no_cache_in_its_signature(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    signature = _read(_save(tmp_path, transformers.GPT2LMHeadModel(config)))
    assert signature.inputs == (_int64("input_ids", "sequence"), _int64("attention_mask", "sequence"))
    assert signature.outputs == (TensorSpec("logits", DType.FP32, ("batch", "sequence", 20)),)


def test_encoder_and_decoder_have_lengths_of_their_own(tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    signature = _read(_save(tmp_path, transformers.T5ForConditionalGeneration(config)))
    assert signature.inputs[-1] == _int64("decoder_input_ids", "decoder_sequence")
    assert signature.outputs[0] == TensorSpec("logits", DType.FP32, ("batch", "decoder_sequence", 20))


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        (None, ("height", "width")),
        ({"size": {"height": 48, "width": 64}}, (48, 64)),
        ({"size": {"shortest_edge": 80}, "crop_size": {"height": 64, "width": 64}}, (64, 64)),
        ({"size": {"shortest_edge": 64}, "crop_size": 32, "do_center_crop": False}, (64, 64)),
    ],
)
def test_image_size_comes_from_the_preprocessor(tmp_path: Path, settings: Any, size: tuple[int | str, ...]) -> None:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    _save(tmp_path, transformers.ResNetForImageClassification(config))
    if settings is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    signature = _read(tmp_path)
    assert signature.inputs == (TensorSpec("pixel_values", DType.FP32, ("batch", 3, *size)),)
    assert signature.outputs[0].shape == ("batch", 2)


def test_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    config = transformers.TimeSeriesTransformerConfig(
        prediction_length=2, d_model=8, encoder_layers=1, decoder_layers=1
    )
    _save(tmp_path, transformers.TimeSeriesTransformerModel(config))
    with pytest.raises(FormatMismatch, match="takes neither input_ids nor pixel_values") as caught:
        _read(tmp_path)
    assert "runoff.package" in str(caught.value.hint)
