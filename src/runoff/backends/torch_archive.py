"""Looks into a `torch.export` archive before PyTorch opens it, so that opening one runs no code of its author.

`torch.export.load` unpickles what the archive marks as pickled, maps its machine code, and evaluates the guards,
shape expressions and operator names that it holds as text. Here each is held against what `torch.export.save`
writes for a plain model, and anything else refused. Knows archives; builds no program.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.utils._sympy.functions as torch_sympy

from runoff.errors import FormatMismatch

_SCALAR_OPERATOR = re.compile(r"_operator\.[a-z]+|math\.[a-z]+|torch\.sym_[a-z]+")
_SYMPY_CLASSES = {
    "Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Max", "Min", "And", "Or", "Not", "Eq", "Ne",
    "Equality", "Unequality", "LessThan", "GreaterThan", "StrictLessThan", "StrictGreaterThan", "Mod", "Piecewise",
    *torch_sympy.__all__,
}  # fmt: skip
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9_.]*")
_GUARD_METHODS = {"size", "stride", "storage_offset", "dim", "numel"}
_EXPRESSION_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.keyword, ast.Constant, ast.Name,
    ast.Load, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.IfExp,
)  # fmt: skip
_GUARD_NODES = (*_EXPRESSION_NODES, ast.Attribute, ast.Subscript)


def check_archive(path: Path) -> None:
    """Refuse an archive whose opening would unpickle objects, load machine code or evaluate free text.

    Raises:
        FormatMismatch: that, or no archive of `torch.export.save` at all.
    """
    try:
        # PyTorch's own reader, so that what is checked is what PyTorch will read.
        reader = torch._C.PyTorchFileReader(str(path))
        names = list(reader.get_all_records())
    except RuntimeError as error:
        raise FormatMismatch(
            f"{path} is not a torch.export archive, or is damaged", hint="export or fetch the file again"
        ) from error
    if "models/model.json" not in names:
        raise FormatMismatch(
            f"{path} is not an archive of torch.export.save of torch 2.8 or newer",
            hint="save the program again with torch.export.save",
        )
    if len(set(names)) != len(names):
        raise _refused(path, "two records have the same name")
    for name in names:
        if name.startswith("data/aotinductor/"):
            raise _refused(path, f"the record {name!r} is compiled machine code")
        if name.endswith(".pt"):
            _check_pickle(path, name, reader.get_record(name))
    for folder, kind in (("data/weights/", "weights"), ("data/constants/", "constants")):
        config = f"{folder}model_{kind}_config.json"
        if config in names:
            _check_payloads(path, reader, folder, config)
    for name in names:
        if name.startswith("models/"):
            _check_program(path, _read_json(path, name, reader.get_record(name)))


def _check_payloads(path: Path, reader: Any, folder: str, config: str) -> None:
    for payload in _read_json(path, config, reader.get_record(config)).get("config", {}).values():
        name = payload["path_name"]
        if name.startswith(("custom_obj", "opaque_obj")):
            raise _refused(path, f"the record {name!r} is a pickled object")
        if payload["use_pickle"]:
            _check_pickle(path, name, reader.get_record(folder + name))


def _check_pickle(path: Path, name: str, data: bytes) -> None:
    """Tensors may be stored by `torch.save`: they pass when the unpickler that knows only tensors reads them."""
    if not data:
        return
    try:
        torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:
        raise _refused(path, f"the record {name!r} holds pickled objects that are not tensors") from error


def _check_program(path: Path, program: dict[str, Any]) -> None:
    for guard in program.get("guards_code", []):
        if not _is_plain_guard(guard):
            raise _refused(path, f"the guard {guard!r} is more than a comparison of shapes")
    for key, text in _walk(program):
        if key == "expr_str" and not _is_plain_expression(text):
            raise _refused(path, f"the shape expression {text!r} is more than arithmetic")
        if key == "target" and not _is_operator(text):
            raise _refused(path, f"the operator {text!r} is none of PyTorch's")


def _walk(value: Any) -> Iterator[tuple[str, str]]:
    """Every string of the program that is code, with its key: operators of nodes and expressions of shapes."""
    if isinstance(value, list):
        for part in value:
            yield from _walk(part)
    elif isinstance(value, dict):
        is_node = "target" in value and "inputs" in value and "outputs" in value
        for key, part in value.items():
            if isinstance(part, str) and (key == "expr_str" or (key == "target" and is_node)):
                yield key, part
            else:
                yield from _walk(part)


def _is_operator(text: str) -> bool:
    """An operator that is registered with PyTorch, so that no other function is reached by a path of names."""
    if _SCALAR_OPERATOR.fullmatch(text):
        return True
    root, _, path = text.partition("torch.ops.")
    namespace, _, name = path.partition(".")
    library = getattr(torch.ops, namespace, None) if not root else None
    if not isinstance(library, (torch._ops._OpNamespace, torch._ops._HigherOrderNamespace)):
        return False
    packet, _, overload = name.partition(".")
    operator = getattr(library, packet, None)
    if isinstance(operator, torch._ops.OpOverloadPacket):
        return overload in operator.overloads()  # type: ignore[no-untyped-call]
    return isinstance(operator, torch._ops.HigherOrderOperator) and not overload


def _is_plain_expression(text: str) -> bool:
    """Arithmetic over symbols: sympy classes called with numbers, and strings only as the name of a Symbol."""
    tree = _parse(text, _EXPRESSION_NODES)
    if tree is None:
        return False
    symbol_names = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Symbol"
        for argument in node.args
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in _SYMPY_CLASSES):
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in symbol_names:
            return False
    return True


def _is_plain_guard(text: str) -> bool:
    """A comparison of the inputs' sizes, such as `L['x'].size()[0] <= 8`."""
    tree = _parse(text, _GUARD_NODES)
    if tree is None:
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr not in _GUARD_METHODS | {"shape"}:
            return False
        if isinstance(node, ast.Call):
            function = node.func
            is_method = isinstance(function, ast.Attribute) and function.attr in _GUARD_METHODS
            if not is_method and not (isinstance(function, ast.Name) and function.id in _SYMPY_CLASSES):
                return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not _PLAIN_TEXT.fullmatch(node.value):
            return False
    return True


def _parse(text: str, allowed: tuple[type[ast.AST], ...]) -> ast.AST | None:
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return None
    plain = all(isinstance(node, allowed) for node in ast.walk(tree))
    names = (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    return tree if plain and not any("__" in name for name in names) else None


def _read_json(path: Path, name: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise FormatMismatch(f"{path}: the record {name!r} is not JSON") from error
    if not isinstance(value, dict):
        raise FormatMismatch(f"{path}: the record {name!r} is not a JSON object")
    return value


def _refused(path: Path, why: str) -> FormatMismatch:
    return FormatMismatch(
        f"{path} is refused: {why}", hint="export the model from its source, or store its weights as safetensors"
    )
