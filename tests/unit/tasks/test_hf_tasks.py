"""Every task of Hugging Face folders, held against Transformers' pipelines and processors on the same folder."""

from __future__ import annotations

import json
import re
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from fakes import tiny_transformers
from runoff.auto import AutoModel
from runoff.errors import InputError
from runoff.export.adopt import adopt
from runoff.export.run import export_package
from runoff.model import Model
from runoff.tasks.base import task_for
from runoff.tasks.predictions import ArraysPrediction
from runoff.types import Precision

_PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] one two three four good bad cold warm ##er ##s old new red blue green"
VOCABULARY = re.findall(r"\S+", _PIECES)
TEXTS = ["good ones colder two", "bad", "one two three four warmer old"]
LABELS = {"0": "O", "1": "B-PER", "2": "I-PER"}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNOFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def save_pieces(folder: Path) -> None:
    """A tokenizer of word pieces, as BERT has."""
    made = Tokenizer(WordPiece({piece: index for index, piece in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tf.PreTrainedTokenizerFast(
        tokenizer_object=made, mask_token="[MASK]", model_max_length=32, **names
    ).save_pretrained(folder)


def change(path: Path, **fields: object) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **fields}))


def text_model(kind: str, folder: Path, **config: object) -> Path:
    tiny_transformers.make(kind, folder)
    save_pieces(folder)
    change(folder / "config.json", **config)
    return folder


def picture(height: int = 40, width: int = 56) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def pillow(image: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(image)


def ask(model: Model, value: object, **options: object) -> Any:
    """The answer of the model's task with other options of its preprocess."""
    manifest = model._folder.manifest
    task = task_for(manifest, model._folder)
    if options:
        processor = str(model._folder.root / manifest.preprocess["processor"])
        builder = type(task)
        task = builder(
            manifest.signature, {**manifest.preprocess, "processor": processor, **options}, task_labels(task)
        )
    found = list(task.predict(task.compute(model.run, task.prepare(value))))
    return found if task.is_many(value) else found[0]


def task_labels(task: Any) -> tuple[str, ...]:
    return getattr(task, "_labels", ())


def test_entities_are_those_of_the_pipeline(tmp_path: Path) -> None:
    folder = text_model("token-classification", tmp_path / "m", id2label=LABELS, label2id={}, num_labels=3)
    torch.manual_seed(3)
    tiny = tf.BertForTokenClassification(tf.AutoConfig.from_pretrained(folder))
    with torch.no_grad():
        tiny.classifier.weight *= 40
    tiny_transformers.save(folder, tiny)
    pipe = tf.pipeline("token-classification", str(folder), aggregation_strategy="simple", device="cpu")
    expected = [pipe(text) for text in TEXTS]
    with AutoModel.from_pretrained(folder) as model:
        found: Any = model(TEXTS)
    assert any(expected), "a model without any entity would show nothing"
    for text, theirs, ours in zip(TEXTS, expected, found, strict=True):
        assert [(one["entity_group"], one["start"], one["end"]) for one in theirs] == [
            (one.label, one.start, one.end) for one in ours.entities
        ]
        np.testing.assert_allclose([one.score for one in ours.entities], [one["score"] for one in theirs], rtol=1e-4)
        assert all(one.text == text[one.start : one.end] for one in ours.entities)


def test_answer_is_the_likeliest_span_of_the_context(tmp_path: Path) -> None:
    folder = text_model("question-answering", tmp_path / "m")
    question, context = "good two", "cold ones three warmer old new"
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    direct = tf.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    given = tokenizer(question, context, return_tensors="pt")
    with torch.inference_mode():
        answer = direct(**given)
    places = [index for index, of in enumerate(given.sequence_ids(0)) if of == 1]
    starts, ends = answer.start_logits[0, places].softmax(-1), answer.end_logits[0, places].softmax(-1)
    spans = [(float(starts[i] * ends[j]), i, j) for i in range(len(places)) for j in range(i, min(i + 15, len(places)))]
    score, first, last = max(spans)
    offsets = given.encodings[0].offsets
    with AutoModel.from_pretrained(folder) as model:
        found: Any = model({"question": question, "context": context})
        several: Any = model([{"question": question, "context": context}, {"question": "bad", "context": "one"}])
        with pytest.raises(InputError, match="an object of question and context"):
            model("who?")
        with pytest.raises(InputError, match="tokens, this model takes 32"):
            model({"question": question, "context": "one " * 50})
        arrays = model({spec.name: np.ones((1, 4), np.int64) for spec in model.signature.inputs})
    assert (found.start, found.end) == (offsets[places[first]][0], offsets[places[last]][1])
    assert found.answer == context[found.start : found.end]
    assert found.score == pytest.approx(score, rel=1e-4)
    assert several[0].answer == found.answer
    assert several[1].answer == "one"
    assert several[1].score == pytest.approx(1)
    assert isinstance(arrays, ArraysPrediction), "arrays by name have no text to point into"


def test_gaps_are_filled_as_the_pipeline_fills_them(tmp_path: Path) -> None:
    folder = text_model("fill-mask", tmp_path / "m")
    pipe = tf.pipeline("fill-mask", str(folder), device="cpu")
    expected = pipe("good [MASK] two")
    with AutoModel.from_pretrained(folder) as model:
        found: Any = model("good [MASK] two")
        two: Any = model("[MASK] good [MASK]")
        with pytest.raises(InputError, match="has no gap"):
            model("good two")
    assert [one.token_id for one in found.gaps[0]] == [one["token"] for one in expected]
    assert [one.token for one in found.gaps[0]] == [one["token_str"] for one in expected]
    np.testing.assert_allclose([one.score for one in found.gaps[0]], [one["score"] for one in expected], rtol=1e-4)
    assert [len(gap) for gap in two.gaps] == [5, 5]


def test_features_are_those_of_the_pipeline_and_pooled_where_the_folder_says_so(tmp_path: Path) -> None:
    folder = text_model("feature-extraction", tmp_path / "plain")
    expected = [np.array(one[0]) for one in tf.pipeline("feature-extraction", str(folder), device="cpu")(TEXTS)]
    with AutoModel.from_pretrained(folder) as model:
        found: Any = model(TEXTS)
    for theirs, ours in zip(expected, found, strict=True):
        np.testing.assert_allclose(ours.values, theirs, rtol=1e-4, atol=1e-5)
    pooled = text_model("feature-extraction", tmp_path / "pooled")
    kinds = ["Transformer", "Pooling", "Normalize"]
    places = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": index, "name": str(index), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for index, (place, kind) in enumerate(zip(places, kinds, strict=True))
    ]
    (pooled / "modules.json").write_text(json.dumps(modules))
    (pooled / "1_Pooling").mkdir()
    change(pooled / "1_Pooling" / "config.json", pooling_mode_mean_tokens=True, pooling_mode_cls_token=False)
    change(pooled / "sentence_bert_config.json", max_seq_length=4)
    with AutoModel.from_pretrained(pooled) as model:
        sentences: Any = model(TEXTS[1])
        long: Any = model.task.prepare(TEXTS[2])["input_ids"]
    mean = expected[1].mean(axis=0)
    np.testing.assert_allclose(sentences.values, mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-5)
    assert long.shape == (1, 4)
    (pooled / "modules.json").write_text(json.dumps([*modules, {**modules[2], "type": "x.Dense"}]))
    assert adopt(pooled).manifest.task is None, "a layer that is left out would give other features"


def test_image_classes_are_those_of_the_pipeline(tmp_path: Path) -> None:
    folder = tiny_transformers.make("image-classification", tmp_path / "m")
    tiny_transformers.save_image_processor(folder)
    change(folder / "config.json", id2label={"0": "cat", "1": "dog"}, label2id={})
    expected = tf.pipeline("image-classification", str(folder), device="cpu")(pillow(picture()))
    with AutoModel.from_pretrained(folder) as model:
        found: Any = model(picture())
        assert len(model([picture(), picture(20, 30)])) == 2  # type: ignore[arg-type]
        assert model.task.metric_name == "accuracy"
    scores = {one.label: one.score for one in found.top(9)}
    assert scores == pytest.approx({one["label"]: one["score"] for one in expected}, rel=1e-4)


def check_boxes(expected: list[dict[str, Any]], found: Any) -> None:
    theirs = sorted(expected, key=lambda one: -one["score"])
    np.testing.assert_allclose([one.score for one in found], [one["score"] for one in theirs], rtol=1e-4)
    assert [one.label for one in found] == [one["label"] for one in theirs]
    for one, other in zip(found, theirs, strict=True):
        np.testing.assert_allclose(
            one.box, [other["box"][edge] for edge in ("xmin", "ymin", "xmax", "ymax")], atol=1.01
        )


@pytest.mark.parametrize(("kind", "name"), [("detr", "Detr"), ("yolos", "Yolos")])
def test_objects_are_those_of_the_pipeline(tmp_path: Path, kind: str, name: str) -> None:
    folder = tiny_transformers.make(f"object-detection-{kind}", tmp_path / "m")
    change(folder / "config.json", id2label={"0": "cat", "1": "dog"}, label2id={})
    size = {"height": 32, "width": 32} if kind == "yolos" else {"shortest_edge": 32, "longest_edge": 64}
    getattr(tf, f"{name}ImageProcessorPil")(size=size).save_pretrained(folder)
    expected = tf.pipeline("object-detection", str(folder), device="cpu")(pillow(picture()), threshold=0.0)
    with AutoModel.from_pretrained(folder) as model:
        found = ask(model, picture(), threshold=0.0)
        assert str(model(picture())) == "no object", "random weights are not sure of anything"
        if kind == "detr":
            with pytest.raises(InputError, match="cannot share a batch"):
                model([picture(40, 56), picture(56, 40)])
    assert len(found) == 5
    check_boxes(expected, found)


@pytest.fixture(scope="module", params=["owlvit", "owlv2"])
def owl(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("owl") / request.param
    tiny_transformers.make(f"zero-shot-object-detection-{request.param}", folder)
    save_pieces(folder)
    name = {"owlvit": "OwlViT", "owlv2": "Owlv2"}[request.param]
    getattr(tf, f"{name}ImageProcessorPil")(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_objects_that_texts_name_are_those_of_the_processor(owl: Path) -> None:
    texts = ["red one", "blue", "old green two"]
    tokens = tf.AutoTokenizer.from_pretrained(owl)(texts, padding="max_length", max_length=16, return_tensors="pt")
    processor = tf.AutoImageProcessor.from_pretrained(owl)
    pixels = torch.from_numpy(processor(picture(), return_tensors="np")["pixel_values"])
    direct = tf.AutoModelForZeroShotObjectDetection.from_pretrained(owl).eval()
    given = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"], "pixel_values": pixels}
    with torch.inference_mode():
        outputs = direct(**given)
    (expected,) = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(40, 56)])
    order = expected["scores"].argsort(descending=True, stable=True).tolist()
    with AutoModel.from_pretrained(owl) as model:
        found = ask(model, {"image": picture(), "texts": texts}, threshold=0.0)
        with pytest.raises(InputError, match="image and texts") as caught:
            model(picture())
        assert "street.png" in str(caught.value.hint)
    assert [one.label for one in found] == [texts[expected["labels"][index]] for index in order]
    np.testing.assert_allclose([one.score for one in found], expected["scores"][order], rtol=1e-4)
    np.testing.assert_allclose([one.box for one in found], expected["boxes"][order], rtol=1e-4, atol=1e-3)


def test_any_runtime_answers_the_task(tmp_path: Path) -> None:
    source = text_model("token-classification", tmp_path / "m", id2label=LABELS, label2id={}, num_labels=3)
    torch.manual_seed(3)
    tiny_transformers.save(source, tf.BertForTokenClassification(tf.AutoConfig.from_pretrained(source)))
    folder = export_package(adopt(source), "onnx", Precision.FP32).root
    answers = []
    for backend in ("hf", "onnx"):
        with AutoModel.from_pretrained(folder, backend=backend) as model:
            answers.append([(one.label, one.start, one.end) for one in model(TEXTS[2]).entities])  # type: ignore[union-attr]
            assert model.package.backend == backend
    assert answers[0] == answers[1]


def whisper(folder: Path, **generation: object) -> Path:
    tiny_transformers.make("speech-recognition", folder)
    save_pieces(folder)
    tf.WhisperFeatureExtractor(feature_size=8, hop_length=400, chunk_length=1, n_fft=400).save_pretrained(folder)
    change(folder / "generation_config.json", **generation)
    return folder


PROMPTED = {
    "_from_model_config": False,
    "is_multilingual": True,
    "lang_to_id": {"<|en|>": 5, "<|de|>": 6},
    "task_to_id": {"transcribe": 7, "translate": 8},
    "no_timestamps_token_id": 19,
    "suppress_tokens": [3, 4],
    "begin_suppress_tokens": [2, 10],
}


@pytest.mark.parametrize("generation", [{}, PROMPTED], ids=["plain", "prompted"])
def test_speech_is_written_as_generate_writes_it(tmp_path: Path, generation: dict[str, object]) -> None:
    folder = whisper(tmp_path / "m", **generation)
    sound = np.random.default_rng(0).normal(0, 0.2, 16000).astype(np.float32)
    extractor = tf.AutoFeatureExtractor.from_pretrained(folder)
    features = torch.from_numpy(extractor(sound, sampling_rate=16000, return_tensors="np")["input_features"])
    direct = tf.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    with torch.inference_mode():
        task = {"task": "transcribe"} if generation else {}
        written = direct.generate(features, do_sample=False, num_beams=1, max_new_tokens=6, **task)[0].tolist()
        language = direct.detect_language(features).tolist() if generation else []
    with AutoModel.from_pretrained(folder) as model:
        found = ask(model, sound, max_new_tokens=6).token_ids.tolist()
        with pytest.raises(InputError, match=r"lasts 2\.0 s, this model hears 1\.0 s"):
            model(np.zeros(32000, np.float32))
    prompt = [1, *language, 7, 19] if generation else [1]
    assert found[: len(prompt)] == prompt
    # What generate answers has neither the prompt nor the end.
    assert [token for token in found[len(prompt) :] if token != 2] == written
    assert written


def test_frames_of_sound_are_read_as_ctc_reads_them(tmp_path: Path) -> None:
    folder = tiny_transformers.make("speech-recognition-ctc", tmp_path / "m")
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmno"]
    (tmp_path / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(letters)}))
    tf.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json")).save_pretrained(folder)
    tf.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    sound = np.random.default_rng(0).normal(0, 0.2, 4000)
    with wave.open(str(tmp_path / "said.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
    pipe = tf.pipeline("automatic-speech-recognition", str(folder), device="cpu")
    heard = np.frombuffer((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes(), "<i2").astype(np.float32) / 32768
    with AutoModel.from_pretrained(folder) as model:
        found: Any = model(str(tmp_path / "said.wav"))
        with wave.open(str(tmp_path / "slow.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(bytes(100))
        with pytest.raises(InputError, match="8000 samples per second, this model takes 16000"):
            model(str(tmp_path / "slow.wav"))
    assert found.text == pipe(heard)["text"]
    assert found.text


@pytest.mark.parametrize(
    ("kind", "value", "part"),
    [
        ("fill-mask", "[MASK]", "tokenizer"),
        ("object-detection-yolos", picture(), "image processor"),
        ("speech-recognition", np.zeros(10, np.float32), "feature extractor"),
    ],
)
def test_processor_file_that_is_missing_is_named(tmp_path: Path, kind: str, value: object, part: str) -> None:
    with AutoModel.from_pretrained(tiny_transformers.make(kind, tmp_path / "m")) as model:
        with pytest.raises(InputError, match=f"has no {part} that transformers"):
            model(value)
        assert model._folder.manifest.task is not None
