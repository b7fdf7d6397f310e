"""PyTorch's ahead-of-time forms: AOTInductor packages, which are machine code, and TorchScript files.

Neither can be moved to another precision, and neither holds the shapes of its inputs: those that Runoff makes carry
their signature beside the code. Knows no export; a package of machine code is opened only where it was compiled.
"""

from __future__ import annotations

import json
import platform
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from runoff.backends.torch_session import Forward, first_line, flatten
from runoff.errors import FormatMismatch, RuntimeLoadError, RuntimeRunError
from runoff.models.compiled import check_compiled
from runoff.models.folder import Package
from runoff.types import Signature

_SIGNATURE_KEY = "runoff_signature"
_METADATA = re.compile(r"[^/]+/data/aotinductor/model/[^/]+\.wrapper_metadata\.json")
_CAPABILITIES = ("DEFAULT", "AVX2", "AVX512")
"""What PyTorch calls the vector units of x86, each including those before it."""


def signature_note(signature: Signature) -> dict[str, str]:
    """The signature as either form carries it: a text by name."""
    return {_SIGNATURE_KEY: msgspec.json.encode(signature).decode()}


def aoti_requirements() -> dict[str, str]:
    """What a package that is compiled now asks of the machine that opens it."""
    return {
        "torch": _minor(str(torch.__version__)),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def open_aoti(package: Package) -> Forward:
    """Load an AOTInductor package, once it is known to fit this machine and to have been compiled on it.

    Raises:
        RuntimeLoadError: it does not fit, was made elsewhere, or PyTorch cannot load it.
    """
    path = package.main_file
    _check_requirements(package)
    check_compiled(path)
    try:
        with warnings.catch_warnings():
            # torch 2.13: its own modules warn of torch.jit's deprecation when they are imported.
            warnings.simplefilter("ignore", DeprecationWarning)
            model = torch._inductor.aoti_load_package(str(path))
    except Exception as error:
        raise RuntimeLoadError(
            f"PyTorch cannot load package {package.id!r}: {first_line(error)}",
            hint="compile it again here: runoff export --to aoti --force",
        ) from error
    check = _shape_check(package)

    def forward(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        # The compiled code reads memory by the sizes that it was compiled for, and checks none of them.
        check(tensors)
        return flatten(model(*(tensor.contiguous() for tensor in tensors)))

    return forward


def open_torchscript(package: Package, device: torch.device) -> torch.nn.Module:
    """Load a TorchScript file: its code is interpreted, and no Python of its author is run.

    Raises:
        RuntimeLoadError: PyTorch cannot load it.
    """
    try:
        return _load_script(package.main_file, device, {}).eval()
    except Exception as error:
        raise RuntimeLoadError(
            f"PyTorch cannot load package {package.id!r}: {first_line(error)}",
            hint="check the file with `runoff verify`, or make it again",
        ) from error


def aoti_signature(path: Path) -> Signature:
    """The signature that an AOTInductor package carries; nothing in it is run.

    Raises:
        FormatMismatch: it carries none, because something other than Runoff made it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((name for name in archive.namelist() if _METADATA.fullmatch(name)), None)
            metadata = json.loads(archive.read(name)) if name is not None else {}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise FormatMismatch(f"{path} is no AOTInductor package, or is damaged: {error}") from error
    return _signature(path, metadata.get(_SIGNATURE_KEY))


def torchscript_signature(path: Path) -> Signature:
    """The signature that a TorchScript file carries.

    Raises:
        FormatMismatch: PyTorch cannot load it, or it carries none because something other than Runoff made it.
    """
    extra = {_SIGNATURE_KEY: ""}
    try:
        _load_script(path, torch.device("cpu"), extra)
    except Exception as error:
        raise FormatMismatch(f"PyTorch cannot read {path}: {first_line(error)}") from error
    return _signature(path, extra[_SIGNATURE_KEY])


def _load_script(path: Path, device: torch.device, extra: dict[str, Any]) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        load: Any = torch.jit.load
        module: torch.nn.Module = load(str(path), map_location=device, _extra_files=extra)
    return module


def _signature(path: Path, text: Any) -> Signature:
    if not text:
        raise FormatMismatch(
            f"{path} does not say which shapes it takes",
            hint="write a runoff.json with its signature beside it (docs/manifest.md), or use the model's source",
        )
    try:
        return msgspec.json.decode(text, type=Signature)
    except msgspec.DecodeError as error:
        raise FormatMismatch(f"{path} carries a signature that cannot be read: {error}") from error


def _check_requirements(package: Package) -> None:
    here = aoti_requirements()
    for name, wanted in package.entry.requires.items():
        found = here.get(name)
        if found is None or wanted == found or (name == "cpu_capability" and _includes(found, wanted)):
            continue
        raise RuntimeLoadError(
            f"package {package.id!r} was compiled for {name} {wanted}, here it is {found}",
            hint="compile it again here: runoff export --to aoti --force",
        )


def _includes(found: str, wanted: str) -> bool:
    known = found in _CAPABILITIES and wanted in _CAPABILITIES
    return known and _CAPABILITIES.index(found) >= _CAPABILITIES.index(wanted)


def _shape_check(package: Package) -> Any:
    """A check that tensors have the batch that the package was compiled for, and that named dimensions agree."""
    specs = package.signature.inputs
    batch = package.entry.batch

    def check(tensors: Sequence[torch.Tensor]) -> None:
        sizes: dict[str, int] = {} if batch == "dynamic" else {"batch": batch}
        for spec, tensor in zip(specs, tensors, strict=True):
            for dim, size in zip(spec.shape, tensor.shape, strict=True):
                expected = sizes.setdefault(dim, size) if isinstance(dim, str) else dim
                if expected != size:
                    raise RuntimeRunError(
                        f"input {spec.name!r} has {size} where package {package.id!r} takes {expected} for {dim!r}",
                        hint="use this size, or a package that was made with a dynamic batch",
                    )

    return check


def _minor(version: str) -> str:
    """`2.13` of `2.13.0+cpu`."""
    return ".".join(version.split("+")[0].split(".")[:2])
