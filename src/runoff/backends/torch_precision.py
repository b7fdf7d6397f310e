"""Moves an exported graph from one float precision to another: weights, constants, and dtypes written in it.

Converting the weights alone is not enough: a graph traced in fp32 spells fp32 out, in casts, in factories such as
`full`, and wherever integers become floats, and each such node would pull what follows back to fp32 or fail
on two dtypes. Knows torch.fx graphs; knows no files and no sessions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx.node import map_aggregate

_FILLS = {"full", "full_like", "new_full", "scalar_tensor", "masked_fill", "fill", "where", "constant_pad_nd"}


def convert_graph(module: torch.fx.GraphModule, source: torch.dtype, target: torch.dtype) -> None:
    """Convert a graph in place, those nested in it included.

    Args:
        module: a graph of ATen operators, whose nodes carry `meta["val"]` as `torch.export` leaves it.
        source: the float dtype that it was traced in; other dtypes, fp64 among them, stay.
        target: the float dtype to compute in.
    """
    module._apply(lambda tensor: tensor.to(target) if tensor.dtype == source else tensor)  # type: ignore[no-untyped-call]
    for part in module.modules():
        if isinstance(part, torch.fx.GraphModule):
            _convert_constants(part, source, target)
            _convert_nodes(part.graph, source, target)
            part.recompile()


def _convert_constants(module: torch.fx.GraphModule, source: torch.dtype, target: torch.dtype) -> None:
    """Lifted constants are plain attributes, which `Module._apply` does not reach."""
    for node in module.graph.find_nodes(op="get_attr"):
        owner_name, _, name = str(node.target).rpartition(".")
        owner = module.get_submodule(owner_name)
        value = getattr(owner, name)
        registered = name in owner._parameters or name in owner._buffers
        if isinstance(value, torch.Tensor) and not registered and value.dtype == source:
            setattr(owner, name, value.to(target))


def _convert_nodes(graph: torch.fx.Graph, source: torch.dtype, target: torch.dtype) -> None:
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        name = _operator_name(node)
        if name == "_assert_tensor_metadata":
            graph.erase_node(node)
            continue
        spelt_out = _mentions(node, source)
        limit = torch.finfo(target).max if name in _FILLS else math.inf
        node.args = _rewrite(node.args, source, target, limit)
        node.kwargs = _rewrite(node.kwargs, source, target, limit)
        if not spelt_out and _starts_floats(node, source):
            _cast_after(graph, node, target)


def _operator_name(node: torch.fx.Node) -> str:
    """`full` of `aten.full.default`."""
    packet = getattr(node.target, "overloadpacket", None)
    return getattr(packet, "__name__", "")


def _mentions(node: torch.fx.Node, dtype: torch.dtype) -> bool:
    found = False

    def look(value: Any) -> Any:
        nonlocal found
        found = found or value == dtype if isinstance(value, torch.dtype) else found
        return value

    map_aggregate(node.args, look)
    map_aggregate(node.kwargs, look)
    return found


def _rewrite(arguments: Any, source: torch.dtype, target: torch.dtype, limit: float) -> Any:
    """Arguments with `source` replaced, and filled-in numbers such as fp32's lowest held within `target`'s range."""

    def change(value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return target if value == source else value
        if isinstance(value, float) and limit < abs(value) < math.inf:
            return math.copysign(limit, value)
        return value

    return map_aggregate(arguments, change)


def _starts_floats(node: torch.fx.Node, source: torch.dtype) -> bool:
    """Whether the node makes floats of `source` out of no floats: a factory, or integers divided or averaged."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dtype != source:
        return False
    parents = [parent.meta.get("val") for parent in node.all_input_nodes]
    return not any(isinstance(parent, torch.Tensor) and parent.is_floating_point() for parent in parents)


def _cast_after(graph: torch.fx.Graph, node: torch.fx.Node, target: torch.dtype) -> None:
    with graph.inserting_after(node):
        cast = graph.call_function(torch.ops.aten.to.dtype, (node, target))
    node.replace_all_uses_with(cast, delete_user_cb=lambda user: user is not cast)
