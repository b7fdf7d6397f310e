"""Tasks of Hugging Face folders, held against Transformers run directly on the same folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from fakes import tiny_transformers
from runoff.auto import AutoModel
from runoff.errors import DigestMismatch, InputError, ManifestInvalid
from runoff.export.adopt import adopt
from runoff.export.hf_task import find_task
from runoff.model import Model
from runoff.tasks.base import TASKS
from runoff.tasks.predictions import ClassificationPrediction, TextPrediction
from runoff.types import DType, Signature, TensorSpec

TEXTS = ["good one", "cold old three four", "bad"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNOFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text classifier with a tokenizer and class names."""
    folder = tiny_transformers.make("text-classification", tmp_path_factory.mktemp("made") / "classifier")
    tiny_transformers.save_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "calm", "1": "angry"}}))
    return folder


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader of images with a tokenizer and an image processor."""
    folder = tiny_transformers.make("image-to-text", tmp_path_factory.mktemp("made") / "reader")
    tiny_transformers.save_tokenizer(folder)
    tiny_transformers.save_image_processor(folder)
    return folder


@pytest.fixture(scope="module")
def classifying(classifier: Path) -> Iterator[Model]:
    with AutoModel.from_pretrained(classifier) as model:
        yield model


def images(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 40, 50, 3), np.uint8))


def classify(model: Model, value: object) -> list[ClassificationPrediction]:
    found = model(value)
    predictions = found if isinstance(found, list) else [found]
    assert all(isinstance(one, ClassificationPrediction) for one in predictions)
    return [one for one in predictions if isinstance(one, ClassificationPrediction)]


def read(model: Model, value: object) -> list[TextPrediction]:
    found = model(value)
    predictions = found if isinstance(found, list) else [found]
    return [one for one in predictions if isinstance(one, TextPrediction)]


def test_text_is_classified_as_transformers_does(classifier: Path, classifying: Model) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(classifier)
    direct = transformers.AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    with torch.inference_mode():
        expected = direct(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.softmax(-1).numpy()
    found = classify(classifying, TEXTS)
    (alone,) = classify(classifying, TEXTS[1])
    np.testing.assert_allclose([one.scores for one in found], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(alone.scores, expected[1], rtol=1e-4, atol=1e-5)
    assert {one.label for one in found} <= {"calm", "angry"}


def test_long_text_is_cut_to_what_the_tokenizer_says(classifying: Model) -> None:
    assert classifying.task.prepare("one two " * 50)["input_ids"].shape == (1, 8)


def test_arrays_by_name_give_a_prediction_for_each_row(classifying: Model) -> None:
    found = classify(classifying, classifying.task.prepare(TEXTS))
    assert [one.label for one in found] == [one.label for one in classify(classifying, TEXTS)]


TEXT = Signature(
    (TensorSpec("input_ids", DType.INT64, ("batch", "sequence")),), (TensorSpec("logits", DType.FP32, ("batch", 2)),)
)
BERT = {"architectures": ["BertForSequenceClassification"]}


@pytest.mark.parametrize(
    ("problem", "scores"),
    [("multi_label_classification", "sigmoid"), ("regression", "none"), ("single_label_classification", "softmax")],
)
def test_scores_follow_the_kind_of_problem(tmp_path: Path, problem: str, scores: str) -> None:
    found = find_task({**BERT, "problem_type": problem}, tmp_path, "packages/source", TEXT)
    assert found.preprocess == {"processor": "packages/source", "scores": scores}


@pytest.mark.parametrize(
    "names", [None, {"0": "calm"}, {"0": "calm", "1": "two\nlines"}, {"0": "calm", "2": "angry"}, ["calm", "angry"]]
)
def test_classes_are_named_by_their_ids_when_the_names_are_of_no_use(tmp_path: Path, names: object) -> None:
    assert find_task({**BERT, "id2label": names}, tmp_path, "packages/source", TEXT).labels == ()
    good = {"0": "calm", "1": "angry"}
    assert find_task({**BERT, "id2label": good}, tmp_path, "packages/source", TEXT).labels == ("calm", "angry")


def test_length_and_ends_of_a_text_come_from_the_generation_config(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 3], "max_length": 20, "pad_token_id": null}')
    config = {"decoder": {"decoder_start_token_id": 5, "pad_token_id": 4, "eos_token_id": 9}}
    found = find_task(config, tmp_path, "packages/source", image_to_text_signature())
    assert found.task == "image-to-text"
    assert found.preprocess == {
        "processor": "packages/source",
        "start_token": 5,
        "end_tokens": [2, 3],
        "pad_token": 4,
        "max_new_tokens": 19,
    }
    short = {"decoder": {**config["decoder"], "max_position_embeddings": 8}}
    found = find_task(short, tmp_path, "packages/source", image_to_text_signature())
    assert found.preprocess["max_new_tokens"] == 7, "no more than the decoder has positions for"
    assert find_task({}, tmp_path, "packages/source", image_to_text_signature()).task is None, (
        "nothing says how to begin"
    )


def test_tokenizer_that_is_missing_is_named_and_arrays_still_work(tmp_path: Path) -> None:
    folder = tiny_transformers.make("text-classification", tmp_path / "bare")
    with AutoModel.from_pretrained(folder) as model:
        with pytest.raises(InputError, match="has no tokenizer that transformers") as caught:
            model("good")
        assert "save_pretrained" in str(caught.value.hint)
        ids = np.ones((2, 3), np.int64)
        assert len(classify(model, {spec.name: ids * 0 + 1 for spec in model.signature.inputs})) == 2


def test_processor_file_that_was_changed_is_refused(classifier: Path, tmp_path: Path) -> None:
    root = shutil.copytree(adopt(classifier).root, tmp_path / "copy")
    with AutoModel.from_pretrained(root) as model:
        path = next(root.rglob("tokenizer.json"))
        path.write_bytes(path.read_bytes() + b" ")
        with pytest.raises(DigestMismatch):
            model("good")


def test_greedy_tokens_are_those_of_generate(reader: Path) -> None:
    processor = transformers.AutoImageProcessor.from_pretrained(reader)
    direct = transformers.VisionEncoderDecoderModel.from_pretrained(reader).eval()
    pictures = images(3)
    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = direct.generate(pixels, do_sample=False, num_beams=1, max_new_tokens=10).numpy()
    folder = adopt(reader)
    assert folder.manifest.task == "image-to-text"
    task = TASKS["image-to-text"](
        folder.manifest.signature, {**folder.manifest.preprocess, "processor": str(reader), "max_new_tokens": 10}, ()
    )
    with AutoModel.from_pretrained(reader) as model:
        found = task.compute(model.run, task.prepare(pictures))["sequences"]
        (alone,) = read(model, pictures[0])
    length = min(len(alone.token_ids), expected.shape[1])
    assert length > 1
    assert alone.token_ids[:length].tolist() == expected[0][:length].tolist()
    assert np.array_equal(found, expected)
    tokenizer = transformers.AutoTokenizer.from_pretrained(reader)
    texts = tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert [str(one) for one in task.predict({"sequences": found})] == [text.strip() for text in texts]


def test_text_ends_where_all_have_ended() -> None:
    task = image_to_text(end_tokens=[2], pad_token=0, max_new_tokens=9)
    steps = iter([[5, 2], [6, 7], [2, 7]])

    def run(inputs):
        logits = np.zeros((2, inputs["decoder_input_ids"].shape[1], 20), np.float32)
        logits[np.arange(2), -1, next(steps)] = 1
        return {"logits": logits}

    found = task.compute(run, task.prepare({"pixel_values": np.zeros((2, 3, 32, 32), np.float32)}))
    assert found["sequences"].tolist() == [[1, 5, 6, 2], [1, 2, 0, 0]]


def test_length_ends_a_text_that_has_no_end() -> None:
    task = image_to_text(max_new_tokens=3)
    prepared = task.prepare({"pixel_values": np.zeros((1, 3, 32, 32), np.float32)})
    found = task.compute(lambda inputs: {"logits": np.ones((1, 1, 20), np.float32)}, prepared)
    assert found["sequences"].shape == (1, 4)


@pytest.mark.parametrize("value", [3, [], ["good", 3], None])
def test_other_values_are_refused(classifying: Model, value: object) -> None:
    with pytest.raises(InputError):
        classifying(value)


def test_signature_that_does_not_fit_the_task_is_refused() -> None:
    image = TensorSpec("pixel_values", DType.FP32, ("batch", 3, 32, 32))
    signature = Signature((image,), (TensorSpec("logits", DType.FP32, ("batch", 2)),))
    with pytest.raises(ManifestInvalid, match="needs the input input_ids"):
        TASKS["text-classification"](signature, {"processor": "p"}, ())
    with pytest.raises(ManifestInvalid, match="needs the inputs pixel_values and decoder_input_ids"):
        TASKS["image-to-text"](signature, {"processor": "p", "start_token": 1}, ())
    with pytest.raises(ManifestInvalid, match="processor"):
        TASKS["text-classification"](signature, {}, ())


def image_to_text_signature() -> Signature:
    ids = TensorSpec("decoder_input_ids", DType.INT64, ("batch", "decoder_sequence"))
    image = TensorSpec("pixel_values", DType.FP32, ("batch", 3, 32, 32))
    return Signature((image, ids), (TensorSpec("logits", DType.FP32, ("batch", "decoder_sequence", 20)),))


def image_to_text(**options):
    return TASKS["image-to-text"](image_to_text_signature(), {"processor": "p", "start_token": 1, **options}, ())
