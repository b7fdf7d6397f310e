"""To `onnx-fused`: a Transformers model with its attention, norms and activations fused for ONNX Runtime.

Runs in the export worker. Knows no plan and no manifest. The fusions recognise attention only in what the TorchScript
exporter writes for the eager implementation; graphs of the dynamo exporter hide it. The result has operators of ONNX
Runtime's own, so no other runtime opens it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from runoff.errors import ExportError
from runoff.export.step import Made, StepOptions, quiet, with_batch
from runoff.models.folder import Package
from runoff.types import Signature

MAIN_FILE = "model.onnx"
_PLAIN_FILE = "plain.onnx"
_OPSET = 17
"""The newest operator set that all fusions know: later ones spell Gelu and others in other operators."""
_FAMILIES = {"roberta": "bert", "distilbert": "bert", "electra": "bert", "camembert": "bert", "deit": "vit"}
"""Whose fusions a kind of model takes, where ONNX Runtime has none under its own name."""
_SEQUENCE = 24
_PROTOBUF_LIMIT_BYTES = 2**31 - 2**24


def from_hf(source: Package, destination: Path, options: StepOptions) -> Made:
    """Export the model of a Hugging Face folder and fuse its graph.

    Raises:
        FormatMismatch: Transformers cannot open the folder.
        ExportError: it cannot be exported, or nothing in it can be fused.
    """
    import onnxruntime
    import torch
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    from runoff.export.module import first_line

    signature = with_batch(source.signature, options.batch)
    plain = destination / _PLAIN_FILE
    config = _export(source, signature, plain, options)
    kind = str(config.model_type)
    family = _FAMILIES.get(kind, kind if kind in optimizer.MODEL_TYPES else "bert")
    fusions = FusionOptions(family)
    # Left alone, the mask becomes the length of each row, which is wrong for any mask but one of padding at the end.
    fusions.use_raw_attention_mask(use_raw_mask=True)
    heads, width = (getattr(config, name, None) for name in ("num_attention_heads", "hidden_size"))
    try:
        with quiet():
            # ONNX Runtime's own optimizations run when a session opens; here only those that it cannot do alone.
            fused = optimizer.optimize_model(
                str(plain),
                family,
                num_heads=heads or 0,
                hidden_size=width or 0,
                optimization_options=fusions,
                opt_level=0,
            )
            counts = {name: count for name, count in fused.get_fused_operator_statistics().items() if count}
            if not counts:
                raise ExportError(
                    f"nothing in {source.id} can be fused: ONNX Runtime knows no pattern of {kind}",
                    hint="its onnx package is as fast",
                )
            _fix_shapes(fused.model.graph, signature)
            fused.save_model_to_file(
                str(destination / MAIN_FILE),
                use_external_data_format=fused.model.ByteSize() > _PROTOBUF_LIMIT_BYTES,
            )
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"the graph of {source.id} cannot be fused: {first_line(error)}") from error
    for path in destination.glob(f"{_PLAIN_FILE}*"):
        path.unlink()
    versions = {"torch": str(torch.__version__), "onnxruntime": onnxruntime.__version__}
    requires = {"opset": _OPSET, "domains": ["com.microsoft"]}
    return Made(MAIN_FILE, "onnxruntime.transformers.optimizer", versions, requires, details={"fused": counts})


def _export(source: Package, signature: Signature, path: Path, options: StepOptions) -> Any:
    """Write the plain graph; answers the configuration of the model."""
    import torch

    from runoff.export.module import first_line
    from runoff.export.torch_export import example, load_hf
    from runoff.export.torchscript import Ordered

    flat, limits = load_hf(source, "eager")
    config: Any = getattr(flat.module.model, "config", None)
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int):
        # The trace computes, so its example must fit the table of positions.
        sizes = {"sequence": min(_SEQUENCE, positions // 2), "decoder_sequence": min(_SEQUENCE, positions // 2) - 1}
        options = msgspec.structs.replace(options, sizes={**sizes, **options.sizes})
    axes = {
        spec.name: {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
        for spec in (*signature.inputs, *signature.outputs)
    }
    try:
        with torch.no_grad(), quiet():
            torch.onnx.export(
                Ordered(flat),
                tuple(example(signature, options, limits)),
                str(path),
                dynamo=False,
                opset_version=_OPSET,
                input_names=[spec.name for spec in signature.inputs],
                output_names=[spec.name for spec in signature.outputs],
                dynamic_axes=axes,
            )
    except Exception as error:
        raise ExportError(f"torch.onnx cannot trace {source.id}: {first_line(error)}") from error
    return config


def _fix_shapes(graph: Any, signature: Signature) -> None:
    """Give inputs and outputs the signature's shapes: a trace forgets that of an output with a dynamic batch."""
    for values, specs in ((graph.input, signature.inputs), (graph.output, signature.outputs)):
        for value, spec in zip(values, specs, strict=True):
            shape = value.type.tensor_type.shape
            shape.ClearField("dim")
            for dim in spec.shape:
                shape.dim.add(**({"dim_value": dim} if isinstance(dim, int) else {"dim_param": dim}))
