"""What an exported graph writes to: its inputs, what it keeps from run to run, or only what it made itself.

`torch.export` leaves in-place operators in the graph as they are. Knows operators by their schema; runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

# They answer their input itself when not training, which their schemas do not say.
_PASS_THROUGH = {"dropout", "feature_dropout", "alpha_dropout"}


def writes_in_place(module: torch.fx.GraphModule) -> bool:
    """Whether any operator writes to a tensor that it was given; it may be an input, so inputs need copies."""
    return any(True for _ in _written(module))


def keeps_state(module: torch.fx.GraphModule) -> bool:
    """Whether a run changes what the next one sees, so that two must not run at once."""
    for graph, node in _written(module):
        origin = _origin(node)
        nested_input = origin.op == "placeholder" and graph is not module.graph
        if origin.op == "get_attr" or nested_input:
            return True
    return False


def _written(module: torch.fx.GraphModule) -> Iterator[tuple[torch.fx.Graph, torch.fx.Node]]:
    """Every tensor that an operator writes to, with its graph."""
    for part in module.modules():
        if not isinstance(part, torch.fx.GraphModule):
            continue
        for node in part.graph.nodes:
            schema = getattr(node.target, "_schema", None)
            if node.op != "call_function" or schema is None or not schema.is_mutable:
                continue
            for argument, value in zip(schema.arguments, node.args, strict=False):
                written = argument.alias_info is not None and argument.alias_info.is_write
                if written and isinstance(value, torch.fx.Node):
                    yield part.graph, value


def _origin(node: torch.fx.Node) -> torch.fx.Node:
    """Where the memory of a tensor came from, through views and in-place operators."""
    while node.op == "call_function" and node.args and isinstance(node.args[0], torch.fx.Node):
        schema = getattr(node.target, "_schema", None)
        packet = getattr(node.target, "overloadpacket", None)
        shares = schema is not None and any(value.alias_info is not None for value in schema.returns)
        if not shares and getattr(packet, "__name__", "") not in _PASS_THROUGH:
            break
        node = node.args[0]
    return node
