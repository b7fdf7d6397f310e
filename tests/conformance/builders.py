"""The models that every backend is held against, built in each format from one seeded network."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from fakes import tiny_nets
from runoff.backends import table
from runoff.export.conversions import STEPS
from runoff.export.isolated import plain, worker
from runoff.export.step import StepOptions
from runoff.models.arrays import Array
from runoff.models.dimensions import signature_of
from runoff.models.folder import Package, describe_tree
from runoff.models.manifest import PackageEntry
from runoff.types import DType, Precision, Signature, TensorSpec


@dataclass(frozen=True)
class Net:
    """A network with its signature; `module` answers a dict in the signature's order."""

    name: str
    make: Callable[[], nn.Module]
    signature: Signature
    limit: int = 0

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().eval()

    def inputs(self, rows: int, seed: int = 0) -> dict[str, Array]:
        """Random inputs; integers stay below `limit`, and dynamic dimensions other than the batch are 5."""
        generator = np.random.default_rng(seed)
        arrays: dict[str, Array] = {}
        for spec in self.signature.inputs:
            shape = [dim if isinstance(dim, int) else rows if dim == "batch" else 5 for dim in spec.shape]
            if spec.dtype is DType.INT64:
                limit = 2 if spec.name in ("attention_mask", "token_type_ids") else self.limit
                arrays[spec.name] = generator.integers(0, limit, shape)
                if spec.name == "attention_mask":
                    arrays[spec.name][:, :2] = 1
            elif spec.dtype is DType.UINT8:
                arrays[spec.name] = generator.integers(0, 256, shape, np.uint8)
            else:
                arrays[spec.name] = generator.standard_normal(shape, np.float32)
        return arrays

    def reference(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """What PyTorch answers without Runoff."""
        with torch.no_grad():
            outputs = self.module()(**{name: torch.tensor(array) for name, array in inputs.items()})
        return {spec.name: outputs[spec.name].numpy() for spec in self.signature.outputs}


def _fp32(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, DType.FP32, shape)


def _int64(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, DType.INT64, shape)


def _bert() -> nn.Module:
    import transformers

    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


def _vit() -> nn.Module:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    return transformers.ViTModel(config)


_TEXT = tuple(_int64(name, "batch", "sequence") for name in ("input_ids", "attention_mask", "token_type_ids"))

NETS = {
    net.name: net
    for net in (
        Net("mlp", tiny_nets.Mlp, Signature((_fp32("x", "batch", 8),), (_fp32("y", "batch", 4),))),
        Net(
            "conv",
            tiny_nets.ConvNet,
            Signature(
                (_fp32("image", "batch", 3, 16, 16),), (_fp32("logits", "batch", 10), _fp32("features", "batch", 8))
            ),
        ),
        Net(
            "pooler",
            tiny_nets.Pooler,
            Signature(
                (_int64("ids", "batch", 6), _fp32("weights", "batch", 6)),
                (_fp32("scores", "batch", 5), _int64("total", "batch")),
            ),
            limit=20,
        ),
        Net(
            "picture",
            tiny_nets.PictureNet,
            Signature(
                (TensorSpec("image", DType.UINT8, ("batch", "height", "width", 3)),), (_fp32("embedding", "batch", 4),)
            ),
        ),
        Net("bert", _bert, Signature(_TEXT, (_fp32("logits", "batch", 3),)), limit=30),
        Net(
            "vit",
            _vit,
            Signature(
                (_fp32("pixel_values", "batch", 3, 16, 16),),
                (_fp32("last_hidden_state", "batch", 5, 16), _fp32("pooler_output", "batch", 16)),
            ),
        ),
    )
}


STATIC_ROWS = 2
"""The batch of formats that are made for one."""


def build(root: Path, net: Net, form: str) -> Package:
    """Build a package; a form is a format, with the precision of the file where that is not fp32."""
    if form.partition("/")[0] in ("litert", "executorch"):
        return _convert(root, net, form)
    format_id, _, precision = form.partition("/")
    folder = root / f"{net.name}-{format_id}-{precision or 'fp32'}"
    requires: dict[str, Any] = {}
    if not folder.exists():
        folder.mkdir(parents=True)
        _WRITERS[format_id](folder, net, Precision(precision or "fp32"))
    if format_id == "safetensors":
        requires = {"module": f"fakes.tiny_nets:{type(net.module()).__name__}", "kwargs": {}}
    first = {
        "hf": "config.json",
        "openvino": "model.xml",
        "ncnn": "model.param",
        "iree": "model.vmfb",
        "web": "index.html",
        "tfjs": "index.html",
    }.get(format_id)
    backend = table.backends_for(format_id)[0].id
    files = describe_tree(root, folder, first)
    entry = PackageEntry(folder.name, backend, format_id, Precision(precision or "fp32"), files, requires=requires)
    return Package(root, entry, net.signature)


def _convert(root: Path, net: Net, form: str) -> Package:
    """Build a package of one batch size by Runoff's own steps, in a process of their own as always."""
    format_id, _, precision = form.partition("/")
    wanted = Precision(precision or "fp32")
    from_fp32 = format_id == "litert" and wanted is Precision.INT8
    source = build(root, net, "litert" if from_fp32 else "torch-export")
    folder = root / f"{net.name}-{format_id}-{wanted}"
    start = (source.entry.format, Precision.FP32)
    row = next(row for row in STEPS if (row.source, row.result) == (start, (format_id, wanted)))
    if not folder.exists():
        folder.mkdir(parents=True)
        with worker() as child:
            options = msgspec.to_builtins(StepOptions(wanted, STATIC_ROWS))
            child.call(
                "export", 240.0, package=plain(source), target=row.target, destination=str(folder), options=options
            )
    files = describe_tree(root, folder)
    entry = PackageEntry(folder.name, format_id, format_id, wanted, files, batch=STATIC_ROWS)
    return Package(root, entry, signature_of(entry, net.signature))


def _export(net: Net, module: nn.Module) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    example = tuple(torch.tensor(array) for array in net.inputs(3).values())
    return torch.export.export(module, example, dynamic_shapes=_dynamic(net, module, batch))


def _dynamic(net: Net, module: nn.Module, batch: Any) -> Any:
    if isinstance(module, tiny_nets.Narrow):
        return {"inputs": tuple({0: batch} for _ in net.signature.inputs)}
    return {spec.name: {0: batch} for spec in net.signature.inputs}


def _write_web(folder: Path, net: Net, precision: Precision) -> None:
    _step("runoff.export.web:from_onnx", folder, net, precision, "onnx")


def _write_tfjs(folder: Path, net: Net, precision: Precision) -> None:
    _step("runoff.export.tfjs:from_onnx", folder, net, precision, "onnx")


def _write_export(folder: Path, net: Net, precision: Precision) -> None:
    torch.export.save(_export(net, net.module()), folder / "model.pt2")


def _write_safetensors(folder: Path, net: Net, precision: Precision) -> None:
    from safetensors.torch import save_file

    save_file(net.module().state_dict(), folder / "model.safetensors")


def _write_iree(folder: Path, net: Net, precision: Precision) -> None:
    _step("runoff.export.iree:from_onnx", folder, net, precision, "onnx")


def _write_mediapipe(folder: Path, net: Net, precision: Precision) -> None:
    from fakes import task_files

    features = net.module().get_submodule("features")
    with worker() as child:
        network = task_files.network(child, folder / "network", features, 1, *[task_files.SIZE] * 2, 3)
    shutil.rmtree(folder / "network")
    graph = task_files.image_graph([task_files.tensor("features")])
    (folder / "model.task").write_bytes(task_files.with_metadata(network, graph))


def _write_onnx(folder: Path, net: Net, precision: Precision) -> None:
    module = net.module()
    if precision is Precision.FP16:
        module = tiny_nets.Narrow(module, torch.float16)
    with warnings.catch_warnings():
        # The exporter warns of its own parts that will change.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(torch.tensor(array) for array in net.inputs(3).values()),
            str(folder / "model.onnx"),
            input_names=[spec.name for spec in net.signature.inputs],
            output_names=[spec.name for spec in net.signature.outputs],
            dynamic_shapes=_dynamic(net, module, "batch"),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _write_openvino(folder: Path, net: Net, precision: Precision) -> None:
    import openvino as ov

    _write_onnx(folder, net, precision)
    ov.save_model(ov.Core().read_model(str(folder / "model.onnx")), folder / "model.xml", compress_to_fp16=False)
    (folder / "model.onnx").unlink()


def _write_hf(folder: Path, net: Net, precision: Precision) -> None:
    net.module().save_pretrained(folder)


def _write_aoti(folder: Path, net: Net, precision: Precision) -> None:
    _step("runoff.export.aoti:from_torch_export", folder, net, precision)


def _write_torchscript(folder: Path, net: Net, precision: Precision) -> None:
    _step("runoff.export.torchscript:from_torch_export", folder, net, precision)


def _write_ncnn(folder: Path, net: Net, precision: Precision) -> None:
    _step("runoff.export.ncnn:from_torch_export", folder, net, precision)


def _write_fused(folder: Path, net: Net, precision: Precision) -> None:
    _step("runoff.export.onnx_fused:from_hf", folder, net, precision, "hf")


def _step(target: str, folder: Path, net: Net, precision: Precision, start: str = "torch-export") -> None:
    """Let a step of the exporter write, from the model in another form."""
    source = build(folder.parent, net, start)
    table.load(target)(source, folder, StepOptions(precision))


_WRITERS = {
    "aoti": _write_aoti,
    "iree": _write_iree,
    "mediapipe": _write_mediapipe,
    "ncnn": _write_ncnn,
    "onnx-fused": _write_fused,
    "torchscript": _write_torchscript,
    "torch-export": _write_export,
    "safetensors": _write_safetensors,
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "hf": _write_hf,
    "web": _write_web,
    "tfjs": _write_tfjs,
}
