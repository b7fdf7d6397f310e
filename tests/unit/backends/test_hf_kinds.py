"""The hf backend over the kinds of model that the field deploys: signature, and the arrays that Transformers gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from fakes import tiny_transformers
from runoff.backends import table
from runoff.backends.protocol import SessionOptions
from runoff.models.folder import Package, describe_tree
from runoff.models.manifest import PackageEntry
from runoff.models.samples import generate_inputs
from runoff.types import DType, Precision, Signature, TensorSpec

SIZES = {"sequence": 6, "decoder_sequence": 3, "queries": 2, "height": 64, "width": 96, "samples": 4000}


def read(folder: Path) -> Signature:
    return table.backend("hf").read_signature("hf", folder)


@pytest.mark.parametrize("kind", tiny_transformers.KINDS)
def test_session_answers_what_transformers_answers(tmp_path: Path, kind: str) -> None:
    folder = tiny_transformers.make(kind, tmp_path)
    signature = read(folder)
    entry = PackageEntry("hf-fp32", "hf", "hf", Precision.FP32, describe_tree(folder, folder, "config.json"))
    inputs = generate_inputs(
        signature,
        rows=2,
        seed=0,
        sizes=SIZES,
        limits={spec.name: tiny_transformers.VOCABULARY for spec in signature.inputs},
    )
    session = table.backend("hf").open(Package(folder, entry, signature), SessionOptions(num_threads=1))
    found = session.run(inputs)
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, config.architectures[0]).from_pretrained(folder).eval()
    given = {name: torch.from_numpy(array) for name, array in inputs.items()}
    if kind.startswith("zero-shot-object"):
        given = {name: value if name == "pixel_values" else value.flatten(0, 1) for name, value in given.items()}
    with torch.inference_mode():
        expected = model(**given)
    assert set(found) == {spec.name for spec in signature.outputs}
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name].numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
    assert found


def test_each_image_has_text_queries_of_its_own(tmp_path: Path) -> None:
    signature = read(tiny_transformers.make("zero-shot-object-detection-owlv2", tmp_path))
    texts, mask, image = signature.inputs
    assert texts == TensorSpec("input_ids", DType.INT64, ("batch", "queries", 16))
    assert mask.shape == texts.shape
    assert image == TensorSpec("pixel_values", DType.FP32, ("batch", 3, 32, 32))
    shapes = {spec.name: spec.shape for spec in signature.outputs}
    assert shapes["logits"] == ("batch", 4, "queries")
    assert shapes["pred_boxes"] == ("batch", 4, 4)


def test_image_encoder_fixes_the_image_of_an_encoder_and_decoder(tmp_path: Path) -> None:
    signature = read(tiny_transformers.make("image-to-text", tmp_path))
    assert signature.inputs == (
        TensorSpec("pixel_values", DType.FP32, ("batch", 3, 32, 32)),
        TensorSpec("decoder_input_ids", DType.INT64, ("batch", "decoder_sequence")),
    )
    assert signature.outputs[0] == TensorSpec("logits", DType.FP32, ("batch", "decoder_sequence", 20))


@pytest.mark.parametrize(
    ("kind", "sound"),
    [
        ("audio-classification", TensorSpec("input_values", DType.FP32, ("batch", "samples"))),
        ("audio-classification-spectrogram", TensorSpec("input_values", DType.FP32, ("batch", 32, 16))),
        ("speech-recognition-ctc", TensorSpec("input_values", DType.FP32, ("batch", "samples"))),
        ("speech-recognition", TensorSpec("input_features", DType.FP32, ("batch", 8, 40))),
    ],
)
def test_sound_is_a_waveform_or_the_spectrogram_of_the_model(tmp_path: Path, kind: str, sound: TensorSpec) -> None:
    assert read(tiny_transformers.make(kind, tmp_path)).inputs[0] == sound
