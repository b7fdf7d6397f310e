"""To `torch-export` at int8 with torchao: weights of linear layers in int8, activations quantised while running.

Runs in the export worker. Knows no plan, no contract and no manifest. What torchao computes is captured down to
PyTorch's own operators, so that opening the archive needs no torchao. Layers are named by their nodes.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

from runoff.errors import ExportError
from runoff.export.layers import check_linear_share, kept_of, reported
from runoff.export.module import first_line, save_program
from runoff.export.step import Made, Quantization, StepOptions, quiet
from runoff.export.torch_export import MAIN_FILE, load_program, recapture
from runoff.models.folder import Package

_TOOL = "torchao"
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d")


def int8_dynamic(source: Package, destination: Path, options: StepOptions) -> Made:
    """Weights of linear layers in int8, a scale for each channel; each row of their inputs is quantised as it comes.

    Raises:
        FormatMismatch: torch cannot read the archive.
        ExportError: linear layers hold too few of the weights, or torchao or torch.export cannot do it.
    """
    wanted = options.quantization or Quantization()
    program = load_program(source.main_file)
    with reported(_TOOL, source.id, _finding), quiet(), torch.no_grad():
        module: Any = program.module()
        layers = _layers(module)
        if not layers:
            raise ExportError(f"nothing in {source.id} can be quantised: int8-dynamic takes linear layers, it has none")
        check_linear_share(source.id, "int8-dynamic", *count_weights(module))
        for name, node in layers.items():
            if name not in wanted.kept:
                _as_module(module, node, f"quantised_{name}")
        module.graph.eliminate_dead_code()
        # Else the weights at fp32 would lie in the archive too.
        module.delete_all_unused_submodules()
        module.recompile()
        quantize_(module, Int8DynamicActivationInt8WeightConfig())
        captured = recapture(module, source.signature, options)
        known: Any = torch.export.default_decompositions()
        own = {operator: how for operator, how in known.items() if operator.namespace == _TOOL}
        program = captured.run_decompositions(own)
        # Where each node came from: a quarter of the archive of a small net, and nothing reads it.
        for node in program.graph.nodes:
            node.meta.pop("from_node", None)
        save_program(program, destination / MAIN_FILE)
    versions = {"torch": str(torch.__version__), _TOOL: version(_TOOL)}
    details = {"method": "int8-dynamic"}
    return Made(MAIN_FILE, _TOOL, versions, {}, tuple(layers), kept_of(tuple(layers), wanted), details)


def operator_name(node: torch.fx.Node) -> str:
    """`conv2d` of a call of `aten.conv2d.default`; empty for other nodes."""
    packet = getattr(node.target, "overloadpacket", None)
    return str(getattr(packet, "__name__", "")) if node.op == "call_function" else ""


def count_weights(module: torch.fx.GraphModule) -> tuple[int, int]:
    """How many weights lie in convolutions and in linear layers."""
    linear = sum(_value(module, node.args[1]).numel() for node in _layers(module).values())
    convolutions = 0
    for node in module.graph.nodes:
        if operator_name(node) in _CONVOLUTIONS:
            weight = _value(module, node.args[1])
            convolutions += weight.numel() if isinstance(weight, torch.Tensor) else 0
    return convolutions, linear


def _finding(error: Exception) -> str:
    return first_line(error).partition(": ")[2]


def _layers(module: torch.fx.GraphModule) -> dict[str, torch.fx.Node]:
    """The linear layers with weights of their own, by the names of their nodes."""
    calls = module.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    return {
        node.name: node
        for node in calls
        if all(isinstance(_value(module, part), torch.Tensor) for part in node.args[1:])
    }


def _as_module(module: torch.fx.GraphModule, node: torch.fx.Node, name: str) -> None:
    """Put an `nn.Linear` with the same weights in the place of a node: torchao quantises modules, not nodes."""
    weight = _value(module, node.args[1])
    bias = _value(module, node.args[2]) if len(node.args) > 2 else None
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    module.add_submodule(name, layer)
    with module.graph.inserting_before(node):
        call = module.graph.call_module(name, (node.args[0],))
    node.replace_all_uses_with(call)
    module.graph.erase_node(node)


def _value(module: torch.fx.GraphModule, node: Any) -> Any:
    """The tensor that a node fetches from the module, or None."""
    if not isinstance(node, torch.fx.Node) or node.op != "get_attr":
        return None
    owner, _, name = str(node.target).rpartition(".")
    return getattr(module.get_submodule(owner), name, None)
