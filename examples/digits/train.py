"""Train the digits example and write its model folder, in seconds on a CPU.

python train.py                  trains, then writes everything in this folder
python train.py --from-weights   trains nothing: writes everything from weights.safetensors
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import safetensors.torch
import torch
from net import DigitsNet
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import runoff
from runoff.export.packaging import PackagingOptions
from runoff.export.run import export_package
from runoff.types import Precision

HERE = Path(__file__).parent
SEED = 0
NUM_HELD_OUT = 450
NUM_EPOCHS = 40
BATCH_SIZE = 64
PEAK_LEARNING_RATE = 3e-3
MIN_ACCURACY = 0.97

LABELS = [str(digit) for digit in range(10)]
INK_LEVELS = 16  # a scan counts the inked dots, 0 to 16, in each of its 8 x 8 fields
PICTURE_ZOOM = 16
# A picture has dark ink on white paper, the network takes ink as 1 and paper as 0.
PREPROCESS = {"size": [8, 8], "color": "gray", "resize": "stretch", "invert": True, "scale": 1 / 255}


@dataclass(frozen=True)
class Digits:
    """Scans, (N, 1, 8, 8) float32 with ink as 1, and the digits that they show, (N,) int64."""

    images: torch.Tensor
    labels: torch.Tensor


def read_digits() -> tuple[Digits, Digits]:
    """The scans to train on and the ones held out, with the same share of each digit."""
    scans = load_digits()
    images = torch.from_numpy((scans.images / INK_LEVELS).astype(np.float32)).unsqueeze(1)
    labels = torch.from_numpy(scans.target.astype(np.int64))
    rows = np.arange(len(labels))
    train_rows, held_rows = train_test_split(rows, test_size=NUM_HELD_OUT, stratify=scans.target, random_state=SEED)
    return Digits(images[train_rows], labels[train_rows]), Digits(images[held_rows], labels[held_rows])


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Images moved by up to one pixel each way, all alike; what comes in at the edge is paper."""
    down, right = torch.randint(0, 3, (2,)).tolist()
    return nn.functional.pad(images, (1, 1, 1, 1))[:, :, down : down + 8, right : right + 8]


def train(digits: Digits) -> DigitsNet:
    """Train a network; the same seed gives the same weights on the same machine."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)  # noqa: FBT003 - torch takes it by position only
    net = DigitsNet()
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    num_steps = NUM_EPOCHS * -(-len(digits.labels) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=num_steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for _ in range(NUM_EPOCHS):
        order = torch.randperm(len(digits.labels))
        for start in range(0, len(order), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            loss = loss_of(net(shifted(digits.images[rows])), digits.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


@torch.no_grad()
def predict(net: DigitsNet, images: torch.Tensor) -> torch.Tensor:
    """The digit in each image, (N,)."""
    digits: torch.Tensor = net(images).argmax(dim=1)
    return digits


def draw(net: DigitsNet, held_out: Digits, folder: Path) -> None:
    """Draw one held-out scan of each digit that the network knows, as a picture that a person can see."""
    folder.mkdir(exist_ok=True)
    right = predict(net, held_out.images) == held_out.labels
    for digit in range(10):
        row = int((right & (held_out.labels == digit)).nonzero()[0])
        paper = np.rint(255 * (1 - held_out.images[row, 0].numpy())).astype(np.uint8)
        picture = paper.repeat(PICTURE_ZOOM, axis=0).repeat(PICTURE_ZOOM, axis=1)
        cv2.imwrite(str(folder / f"{digit}.png"), picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def write_model(net: DigitsNet, held_out: Digits, folder: Path) -> None:
    """Package the network in a new folder: its torch.export archive as the reference, and ONNX."""
    options = PackagingOptions(
        outputs=["logits"],
        labels=LABELS,
        preprocess=PREPROCESS,
        evaluation=({"image": held_out.images.numpy()}, held_out.labels.numpy()),
    )
    example = {"image": held_out.images[:16]}
    made = runoff.package(net, example, folder, name="digits", task="image-classification", options=options)
    export_package(made, "onnx", Precision.FP32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-weights", action="store_true", help="read weights.safetensors instead of training")
    parser.add_argument("--folder", type=Path, default=HERE, help="where everything is written; default: this folder")
    arguments = parser.parse_args()
    folder: Path = arguments.folder

    training, held_out = read_digits()
    if arguments.from_weights:
        net = DigitsNet().eval()
        net.load_state_dict(safetensors.torch.load_file(HERE / "weights.safetensors"))
    else:
        net = train(training)
    accuracy = float((predict(net, held_out.images) == held_out.labels).double().mean())
    print(f"held-out accuracy {accuracy:.2%} on {len(held_out.labels)} scans, trained on {len(training.labels)}")
    if accuracy < MIN_ACCURACY:
        raise SystemExit(f"expected at least {MIN_ACCURACY:.0%}: nothing was written")

    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(net.state_dict(), folder / "weights.safetensors")
    draw(net, held_out, folder / "images")
    with tempfile.TemporaryDirectory() as aside:
        made = Path(aside) / "digits"
        write_model(net, held_out, made)
        shutil.rmtree(folder / "packages", ignore_errors=True)
        shutil.copytree(made, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".runoff.lock"))
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
