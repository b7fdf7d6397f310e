"""The seven reference models of the benchmarks, with random weights: nothing is downloaded.

Random weights cost the same time as trained ones. They answer differently: activations of an untrained net spread
over a range that training would have tamed, so figures of error at 8 bits are a stress test, not a forecast.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.models.folder import ModelFolder, add_package, describe_tree, read_folder, staging
from runoff.models.manifest import MANIFEST_NAME, MadeBy, PackageEntry
from runoff.types import Precision

if TYPE_CHECKING:
    import torch
    from torch import nn

SEED = 0
HF_PACKAGE = "hf-fp32"


@dataclass(frozen=True)
class ReferenceModel:
    """A model by name: what it is, and the function that makes the module and two rows of its inputs."""

    name: str
    title: str
    make: Callable[[], tuple[nn.Module, dict[str, torch.Tensor]]]


def make_mlp() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A small multilayer perceptron on 64 features."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    return net, {"input": torch.randn(2, 64)}


def make_text(hidden: int, layers: int) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A BERT-like encoder with 12 heads and 128 tokens; 384 x 6 is MiniLM's shape and 768 x 12 BERT-base's."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=12)
    config.intermediate_size = 4 * hidden
    ids = torch.randint(0, 30000, (2, 128))
    return BertModel(config), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def make_vision(name: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """An image backbone of Transformers, by the prefix of its classes, at 224 x 224."""
    import torch
    import transformers

    config = getattr(transformers, f"{name}Config")()
    return getattr(transformers, f"{name}Model")(config), {"pixel_values": torch.randn(2, 3, 224, 224)}


def make_detector() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A detector of the shape of YOLOv8n at 320 x 320; see `detector.py`."""
    import torch

    from detector import Detector

    return Detector(), {"images": torch.rand(2, 3, 320, 320)}


MODELS = {
    model.name: model
    for model in (
        ReferenceModel("mlp", "MLP", make_mlp),
        ReferenceModel("mobilenetv2", "MobileNetV2", lambda: make_vision("MobileNetV2")),
        ReferenceModel("resnet50", "ResNet-50", lambda: make_vision("ResNet")),
        ReferenceModel("yolo", "YOLO-shaped", make_detector),
        ReferenceModel("minilm", "MiniLM", lambda: make_text(384, 6)),
        ReferenceModel("bert_base", "BERT-base", lambda: make_text(768, 12)),
        ReferenceModel("vit_b16", "ViT-B/16", lambda: make_vision("ViT")),
    )
}


def model_folder(work: Path, name: str) -> ModelFolder:
    """The model's folder below `work`, made where it is not there yet."""
    root = work / "models" / name
    if (root / MANIFEST_NAME).is_file():
        return read_folder(root)
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    return package_model(name, root)


def package_model(name: str, folder: Path) -> ModelFolder:
    """Make the model folder of a reference model; one of Transformers' gets a package in its own format beside it."""
    import torch

    import runoff

    torch.manual_seed(SEED)
    module, inputs = MODELS[name].make()
    module.eval()
    made = runoff.package(module, inputs, folder, name=name)
    return _add_hf(made, module) if hasattr(module, "save_pretrained") else made


def _add_hf(folder: ModelFolder, module: Any) -> ModelFolder:
    import transformers

    with staging(folder.root) as staged:
        with tempfile.TemporaryDirectory() as place:
            module.save_pretrained(place)
            for path in Path(place).iterdir():
                (staged / path.name).write_bytes(path.read_bytes())
        entry = PackageEntry(
            id=HF_PACKAGE,
            backend="hf",
            format="hf",
            precision=Precision.FP32,
            files=describe_tree(staged, staged, "config.json"),
            made_by=MadeBy("save_pretrained", versions={"transformers": transformers.__version__}),
        )
        return add_package(folder.root, entry, staged)
