"""The MediaPipe backend on task files that are built here; what the network inside answers is asked of LiteRT."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mediapipe", reason="MediaPipe is not installed: pip install 'runoff[mediapipe]'")

from fakes import task_files as files
from fakes.packages import file_package, spec
from fakes.tiny_nets import Features
from runoff import AutoModel
from runoff.backends import table
from runoff.backends.protocol import SessionOptions
from runoff.child import Child
from runoff.errors import FormatMismatch, RunoffError, RuntimeLoadError
from runoff.export.adopt import adopt
from runoff.export.isolated import worker
from runoff.models.arrays import Array
from runoff.models.folder import Package
from runoff.models.formats import detect_format
from runoff.types import DType, Precision, Signature

BACKEND = table.backend("mediapipe")
LABELS = "\n".join(files.LABELS)


class Nets:
    """Each network, converted once."""

    def __init__(self, child: Child, root: Path) -> None:
        self.child, self.root = child, root
        self.known: dict[str, bytes] = {}

    def get(self, name: str, make: Callable[[], torch.nn.Module], *shape: int, dtype: DType = DType.FP32) -> bytes:
        if name not in self.known:
            torch.manual_seed(0)
            self.known[name] = files.network(self.child, self.root / name, make(), *shape, dtype=dtype)
        return self.known[name]

    def pictures(self, module: type[torch.nn.Module]) -> bytes:
        return self.get(module.__name__, module, 1, files.SIZE, files.SIZE, 3)

    def classifier(self) -> bytes:
        graph = files.image_graph([files.labelled("probability")])
        return files.with_metadata(self.pictures(files.Scores), graph, {"labels.txt": LABELS})

    def faces(self) -> bytes:
        """Two faces: at anchor 200 of the grid of 16 x 16, and at anchor 700 of the grid of 8 x 8."""

        def make() -> torch.nn.Module:
            boxes, scores = torch.zeros(1, 896, 16), torch.full((1, 896, 1), -20.0)
            boxes[:, :, 2:4], boxes[:, :, 4:] = 40, 4
            scores[0, 200], scores[0, 700] = 4, 2
            return files.Fixed(boxes, scores)

        network = self.get("faces", make, 1, 128, 128, 3)
        return files.with_metadata(network, files.image_graph([files.tensor("boxes"), files.tensor("scores")]))


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nets]:
    with worker() as child:
        yield Nets(child, tmp_path_factory.mktemp("networks"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNOFF_CACHE", str(tmp_path / "cache"))


def _package(path: Path, content: bytes) -> Package:
    path.write_bytes(content)
    signature = BACKEND.read_signature("mediapipe", path)
    return file_package(path, signature, backend="mediapipe", format_id="mediapipe")


def _answers(network: bytes, given: Array, path: Path) -> list[Array]:
    """What the bare network answers, by the backend litert."""
    path.write_bytes(network)
    litert = table.backend("litert")
    signature = litert.read_signature("litert", path)
    package = file_package(path, signature, backend="litert", format_id="litert")
    with litert.open(package, SessionOptions()) as session:
        return list(session.run({signature.inputs[0].name: given}).values())


def _pictures(rows: int, height: int = files.SIZE, width: int = files.SIZE) -> Array:
    return np.random.default_rng(rows).integers(0, 256, (rows, height, width, 3)).astype(np.uint8)


def _scaled(image: Array) -> Array:
    return (image[None].astype(np.float32) - np.float32(127.5)) / np.float32(127.5)


def test_classifier_answers_the_scores_of_its_network_by_class(nets: Nets, tmp_path: Path) -> None:
    package = _package(tmp_path / "m.task", nets.classifier())
    assert [str(one) for one in package.signature.outputs] == ["scores: fp32[batch, 4]"]
    images = _pictures(3)
    with BACKEND.open(package, SessionOptions()) as session:
        scores = session.run({"image": images})["scores"]
    network = nets.pictures(files.Scores)
    for image, row in zip(images, scores, strict=True):
        np.testing.assert_allclose(row, _answers(network, _scaled(image), tmp_path / "n.tflite")[0][0], atol=1e-6)


def test_picture_of_another_size_is_resized_by_mediapipe(nets: Nets, tmp_path: Path) -> None:
    package = _package(tmp_path / "m.task", nets.classifier())
    color = np.array([200, 30, 90], np.uint8)
    with BACKEND.open(package, SessionOptions()) as session:
        large = session.run({"image": np.broadcast_to(color, (1, 40, 60, 3)).copy()})["scores"]
        small = session.run({"image": np.broadcast_to(color, (1, files.SIZE, files.SIZE, 3)).copy()})["scores"]
    np.testing.assert_allclose(large, small, atol=1e-6)


def test_embedder_and_segmenter_answer_what_their_network_does(nets: Nets, tmp_path: Path) -> None:
    embedder = files.with_metadata(nets.pictures(Features), files.image_graph([files.tensor("features")]))
    images = _pictures(2)
    with BACKEND.open(_package(tmp_path / "e.task", embedder), SessionOptions()) as session:
        embedding = session.run({"image": images})["embedding"]
    expected = _answers(nets.pictures(Features), _scaled(images[1]), tmp_path / "n.tflite")[0]
    np.testing.assert_allclose(embedding[1], expected[0], atol=1e-6)

    network = nets.pictures(files.Masks)
    segmenter = files.with_metadata(network, files.image_graph([files.tensor("masks")]))
    with BACKEND.open(_package(tmp_path / "s.task", segmenter), SessionOptions()) as session:
        found = session.run({"image": images})
    expected = _answers(network, _scaled(images[1]), tmp_path / "n.tflite")[0]
    np.testing.assert_allclose(found["masks"][1], expected[0], atol=1e-6)
    np.testing.assert_array_equal(found["classes"][1], expected[0].argmax(-1))


def test_detections_are_boxes_in_pixels_with_scores_and_classes(nets: Nets, tmp_path: Path) -> None:
    def make() -> torch.nn.Module:
        boxes = torch.tensor([[[0.1, 0.2, 0.5, 0.6], [0.2, 0.3, 0.7, 0.8]]])
        return files.Fixed(boxes, torch.tensor([[2.0, 0.0]]), torch.tensor([[0.9, 0.6]]), torch.tensor([2.0]))

    content = files.with_metadata(
        nets.get("detector", make, 1, files.SIZE, files.SIZE, 3), files.detector_graph(), {"labels.txt": LABELS}
    )
    package = _package(tmp_path / "m.task", content)
    image = _pictures(1, 100, 200)
    with BACKEND.open(package, SessionOptions()) as session:
        found = session.run({"image": image})
    np.testing.assert_allclose(found["boxes"], [[[40, 10, 120, 50], [60, 20, 160, 70]]], atol=1)
    np.testing.assert_allclose(found["scores"], [[0.9, 0.6]], atol=1e-6)
    np.testing.assert_array_equal(found["classes"], [[2, 0]])
    assert found["classes"].dtype == np.int32
    with BACKEND.open(package, SessionOptions(backend={"score_threshold": 0.7})) as session:
        assert session.run({"image": image})["scores"].shape == (1, 1)
    with BACKEND.open(package, SessionOptions(backend={"max_results": 1})) as session:
        np.testing.assert_array_equal(session.run({"image": image})["classes"], [[2]])


def test_faces_come_with_keypoints_and_a_file_in_an_archive_opens_alike(nets: Nets, tmp_path: Path) -> None:
    plain = _package(tmp_path / "m.task", nets.faces())
    packed = _package(tmp_path / "p.task", files.archive({"face_detector.tflite": nets.faces()}))
    image = _pictures(1, 128, 128)
    answers = []
    for package in (plain, packed):
        with BACKEND.open(package, SessionOptions()) as session:
            answers.append(session.run({"image": image}))
    for name, array in answers[0].items():
        np.testing.assert_array_equal(array, answers[1][name])
    found = answers[0]
    np.testing.assert_allclose(found["scores"], [1 / (1 + np.exp([-4, -2]))], atol=1e-6)
    # Anchor 200: two anchors a cell, so cell 100 of 16 x 16 cells of 8 pixels; the box is 40 pixels around its centre.
    centre = np.array([(100 % 16 + 0.5) * 8, (100 // 16 + 0.5) * 8])
    np.testing.assert_allclose(found["boxes"][0, 0], [*(centre - 20), *(centre + 20)], atol=1)
    np.testing.assert_allclose(found["keypoints"][0, 0], [centre + 4] * 6, atol=0.01)


def test_rows_with_fewer_detections_are_filled_up(nets: Nets, tmp_path: Path) -> None:
    """A score that depends on the brightness: the second picture has no detection above the threshold."""

    class Bright(files.Fixed):
        def __init__(self) -> None:
            super().__init__(torch.tensor([[[0.0, 0.0, 0.5, 0.5]]]), torch.ones(1, 1), torch.zeros(1, 1), torch.ones(1))

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            boxes, classes, scores, count = super().forward(image)
            return boxes, classes, scores + torch.sigmoid(4 * image.mean()), count

    network = nets.get("bright", Bright, 1, files.SIZE, files.SIZE, 3)
    content = files.with_metadata(network, files.detector_graph(), {"labels.txt": LABELS})
    images = np.stack([np.full((8, 8, 3), 255, np.uint8), np.zeros((8, 8, 3), np.uint8)])
    with BACKEND.open(_package(tmp_path / "m.task", content), SessionOptions(backend={"score_threshold": 0.5})) as one:
        found = one.run({"image": images})
        nothing = one.run({"image": images[1:]})
    np.testing.assert_array_equal(found["classes"], [[1], [-1]])
    assert found["scores"][1, 0] == 0
    assert nothing["boxes"].shape == (1, 0, 4)


def test_landmarkers_open_from_archives_of_their_networks(nets: Nets, tmp_path: Path) -> None:
    points = torch.rand(1, 1, 1, 1434, generator=torch.Generator().manual_seed(0)) * 256
    network = nets.get("landmarks", lambda: files.Fixed(points, torch.full((1, 1, 1, 1), 9.0)), 1, 256, 256, 3)
    graph = files.image_graph([files.tensor("landmarks"), files.tensor("presence")], 0, 255)
    members = {
        "face_detector.tflite": nets.faces(),
        "face_landmarks_detector.tflite": files.with_metadata(network, graph),
    }
    package = _package(tmp_path / "m.task", files.archive(members))
    assert [str(one) for one in package.signature.outputs] == ["landmarks: fp32[batch, faces, 478, 3]"]
    image = _pictures(1, 128, 128)
    with BACKEND.open(package, SessionOptions(backend={"max_results": 2})) as session:
        landmarks = session.run({"image": image})["landmarks"]
    assert landmarks.shape == (1, 2, 478, 3)
    # Both faces have the same points in their own squares: alike but for place, scale and rotation.
    first, second = (face[:, :2] - face[:, :2].mean(0) for face in landmarks[0])
    spreads = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
    assert np.corrcoef(*spreads)[0, 1] > 0.999


def test_hands_come_with_their_side(nets: Nets, tmp_path: Path) -> None:
    def palms() -> torch.nn.Module:
        boxes, scores = torch.zeros(1, 2016, 18), torch.full((1, 2016, 1), -20.0)
        boxes[:, :, 2:4] = 60
        boxes[:, :, 4::2], boxes[:, :, 5::2] = torch.arange(7) * 5.0, torch.arange(7) * -8.0
        scores[0, 1000] = 5
        return files.Fixed(boxes, scores)

    def hand(side: float) -> torch.nn.Module:
        generator = torch.Generator().manual_seed(0)
        points, world = (torch.rand(1, 63, generator=generator) for _ in range(2))
        return files.Fixed(points * 224, torch.full((1, 1), 0.99), torch.full((1, 1), side), world)

    def pack(name: str, make: Callable[[], torch.nn.Module], size: int, outputs: int) -> bytes:
        network = nets.get(name, make, 1, size, size, 3)
        graph = files.image_graph([files.tensor(f"out{place}") for place in range(outputs)], 0, 255)
        return files.with_metadata(network, graph)

    for side, expected in ((0.8, "Right"), (0.1, "Left")):
        members = {
            "hand_detector.tflite": pack("palms", palms, 192, 2),
            "hand_landmarks_detector.tflite": pack(f"hand{side}", lambda side=side: hand(side), 224, 4),
        }
        path = tmp_path / f"{expected}.task"
        path.write_bytes(files.archive(members))
        folder = adopt(path)
        labels = (folder.root / "labels.txt").read_text().split()
        with BACKEND.open(folder.reference, SessionOptions()) as session:
            found = session.run({"image": _pictures(1, 192, 192)})
        assert found["landmarks"].shape == (1, 1, 21, 3)
        assert [labels[place] for place in found["classes"][0]] == [expected]
        np.testing.assert_allclose(found["scores"][0], max(side, 1 - side), atol=1e-6)


def test_text_is_a_string_and_its_words_reach_the_network(nets: Nets, tmp_path: Path) -> None:
    network = nets.get("words", files.Words, 1, 6, dtype=DType.INT32)
    extra = {"labels.txt": "bad\ngood", "vocab.txt": "\n".join(f"{w} {i}" for i, w in enumerate(files.VOCABULARY))}
    content = files.with_metadata(network, files.text_graph([files.labelled("probability")]), extra)
    with BACKEND.open(_package(tmp_path / "m.task", content), SessionOptions()) as session:
        scores = session.run({"text": np.array(["fine day", "awful"])})["scores"]
    ids = np.array([[1, 3, 5, 0, 0, 0]], np.int32)
    np.testing.assert_allclose(scores[0], _answers(network, ids, tmp_path / "n.tflite")[0][0], atol=1e-6)
    assert abs(scores[1] - scores[0]).max() > 1e-3


def test_sound_is_answered_window_by_window(nets: Nets, tmp_path: Path) -> None:
    network = nets.get("sound", files.Sound, 1, 160)
    graph = files.sound_graph([files.labelled("scores")])
    content = files.with_metadata(network, graph, {"labels.txt": LABELS})
    sound = np.random.default_rng(0).standard_normal((1, 320)).astype(np.float32)
    with BACKEND.open(_package(tmp_path / "m.task", content), SessionOptions()) as session:
        scores = session.run({"audio": sound})["scores"]
    assert scores.shape[0] == 1 and scores.shape[2] == 4
    for window in range(2):
        part = sound[:, window * 160 : window * 160 + 160]
        np.testing.assert_allclose(scores[0, window], _answers(network, part, tmp_path / "n.tflite")[0][0], atol=1e-5)
    stereo = files.with_metadata(network, files.sound_graph([files.labelled("scores")], 2), {"labels.txt": LABELS})
    with pytest.raises(FormatMismatch, match="2 channels of sound"):
        _package(tmp_path / "s.task", stereo)


def test_adopted_classifier_takes_pictures_and_names_its_classes(nets: Nets, tmp_path: Path) -> None:
    path = tmp_path / "animals.task"
    path.write_bytes(nets.classifier())
    with AutoModel.from_pretrained(path) as model:
        assert (model.package.id, model.task.id) == ("mediapipe-fp32", "image-classification")
        image = _pictures(1)[0]
        prediction = model(image)
        scores = model.run({"image": image[None]})["scores"][0]
    assert prediction.label == files.LABELS[int(scores.argmax())]
    assert adopt(path).manifest.golden is not None


def test_tflite_file_is_a_network_unless_mediapipe_is_asked_for(nets: Nets, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(nets.classifier())
    with AutoModel.from_pretrained(path) as network, AutoModel.from_pretrained(path, backend="mediapipe") as task:
        assert (network.package.backend, task.package.backend) == ("litert", "mediapipe")
        assert [str(one) for one in network.signature.inputs] == ["given: fp32[1, 5, 5, 3]"]
        assert [str(one) for one in task.signature.inputs] == ["image: uint8[batch, height, width, 3]"]


def test_precision_of_the_weights_is_read(nets: Nets, tmp_path: Path) -> None:
    from ai_edge_quantizer import Quantizer, recipe

    class Wide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(files.SIZE * files.SIZE * 3, 64)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.head(image.flatten(1))

    plain, narrow = tmp_path / "plain.tflite", tmp_path / "narrow.tflite"
    plain.write_bytes(nets.get("wide", Wide, 1, files.SIZE, files.SIZE, 3))
    quantizer = Quantizer(str(plain), recipe.dynamic_wi8_afp32())
    quantizer.quantize(enable_progress_bar=False, enable_progress_report=False).export_model(str(narrow))
    path = tmp_path / "m.task"
    path.write_bytes(files.with_metadata(narrow.read_bytes(), files.image_graph([files.tensor("features")])))
    folder = adopt(path)
    assert (folder.reference.entry.id, folder.reference.entry.precision) == ("mediapipe-int8", Precision.INT8)


def test_file_that_names_no_task_is_refused(nets: Nets, tmp_path: Path) -> None:
    path = tmp_path / "m.task"
    path.write_bytes(nets.pictures(files.Scores))
    with pytest.raises(FormatMismatch, match="has no TFLite metadata") as caught:
        adopt(path)
    assert "litert" in (caught.value.hint or "")
    unknown = {"pose_detector.tflite": b"1", "pose_landmarks_detector.tflite": b"2"}
    path.write_bytes(files.archive(unknown))
    with pytest.raises(FormatMismatch, match=r"pose_detector\.tflite.* no task that runs here"):
        adopt(path)
    path.write_bytes(files.archive({"face_detector.tflite": nets.faces()}, zipfile.ZIP_DEFLATED))
    with pytest.raises(FormatMismatch, match="compressed"):
        adopt(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"<html>", b"\x1c\0\0\0TFL2" + bytes(64)])
def test_file_that_is_no_task_is_refused_by_its_content(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.task"
    path.write_bytes(content)
    with pytest.raises(FormatMismatch):
        detect_format(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_file_is_refused_when_it_is_opened(nets: Nets, tmp_path: Path, share: float) -> None:
    for name, content in (("m", nets.classifier()), ("a", files.archive({"face_detector.tflite": nets.faces()}))):
        package = _package(tmp_path / f"{name}.task", content)
        package.main_file.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(RunoffError) as caught:
            BACKEND.open(package, SessionOptions())
        assert caught.value.hint


def test_wishes_that_cannot_be_met_are_refused(nets: Nets, tmp_path: Path) -> None:
    package = _package(tmp_path / "m.task", nets.classifier())
    refused = (
        (SessionOptions(num_threads=2), "one thread"),
        (SessionOptions(precision=Precision.BF16), "which is fp32, not bf16"),
        (SessionOptions(backend={"score_threshold": 0.5}), "means nothing to a task of the kind image-classifier"),
    )
    for options, why in refused:
        with pytest.raises(RuntimeLoadError, match=why):
            BACKEND.open(package, options)
    other = Signature(package.signature.inputs, (spec("scores", "batch", 5),))
    with pytest.raises(RuntimeLoadError, match="its signature says"):
        BACKEND.open(Package(package.root, package.entry, other), SessionOptions())
