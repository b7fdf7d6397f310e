"""Hugging Face Transformers: a folder of `config.json` and safetensors, run by the library's own model code.

The class is the one that the configuration names, taken from Transformers itself; code in the folder never runs,
nothing is downloaded, and weights that are missing are refused, since Transformers would make them up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging

from runoff.backends import table
from runoff.backends.hf_signature import model_signature, output_tensors
from runoff.backends.protocol import Session, SessionOptions
from runoff.backends.torch_session import (
    FLOATS,
    TorchPlan,
    TorchSession,
    first_line,
    input_dtypes,
    session_facts,
    storages,
    torch_device,
    wanted_precision,
)
from runoff.errors import FormatMismatch, RuntimeLoadError
from runoff.models.folder import Package
from runoff.types import Signature

_NAMED_MISSING = 3


class HfBackend:
    """Opens packages in the format `hf`."""

    def open(self, package: Package, options: SessionOptions) -> Session:
        """Open a package; see `Backend.open`."""
        table.check_session("hf", options)
        precision = wanted_precision(package.entry.precision, options)
        device = torch_device(options.device)
        try:
            model = load_model(package.folder, options.backend.get("attn_implementation"))
        except FormatMismatch as error:
            raise RuntimeLoadError(f"cannot open package {package.id!r}: {error.message}", hint=error.hint) from error
        model = model.to(device, FLOATS[precision])
        plan = TorchPlan(
            device=device,
            input_dtypes=input_dtypes(package.signature, precision),
            num_threads=options.num_threads,
            copy_inputs=True,
            kept=storages([*model.parameters(), *model.buffers()]),
        )
        facts = session_facts(plan, precision, {})
        facts["runtime"] = f"transformers {transformers.__version__} on {facts['runtime']}"
        facts["attn_implementation"] = getattr(model.config, "_attn_implementation", None)
        facts["class"] = type(model).__name__
        return TorchSession(package.signature, _forward(model, package.signature), plan, facts)

    def read_signature(self, format_id: str, path: Path) -> Signature:
        """The inputs that the model's kind takes and the tensors that it answers; see `hf_signature.py`."""
        return model_signature(load_model(path, None), path)


def load_model(folder: Path, attn_implementation: str | None) -> Any:
    """The model of a folder in eval mode, in the dtype of its weights.

    Raises:
        FormatMismatch: no Transformers folder, damaged, weights missing, or a class that Transformers does not have.
    """
    chosen = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model, report = _model_class(config).from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **chosen,
            )
    except FormatMismatch:
        raise
    except Exception as error:
        raise FormatMismatch(
            f"transformers {transformers.__version__} cannot open {folder}: {first_line(error)}",
            hint="the folder needs a config.json of a model that Transformers has, and its weights as safetensors",
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        more = f" and {len(missing) - _NAMED_MISSING} more" if len(missing) > _NAMED_MISSING else ""
        raise FormatMismatch(
            f"{folder} lacks weights of {type(model).__name__}: {', '.join(missing[:_NAMED_MISSING])}{more}",
            hint="save the model again with save_pretrained; its config.json must name the class that was saved",
        )
    return model.eval()


def _model_class(config: Any) -> Any:
    names = getattr(config, "architectures", None) or []
    if not names:
        return transformers.AutoModel
    kind = getattr(transformers, names[0], None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise FormatMismatch(
            f"transformers {transformers.__version__} has no model class {names[0]!r}",
            hint="code that comes with a model is not run; upgrade transformers, or export the model",
        )
    return kind


def _forward(model: Any, signature: Signature) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
    call = output_tensors(model)
    inputs = [spec.name for spec in signature.inputs]
    outputs = [spec.name for spec in signature.outputs]

    def forward(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        found = call(dict(zip(inputs, tensors, strict=True)))
        if all(name in found for name in outputs):
            return [found[name] for name in outputs]
        return list(found.values())

    return forward


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold Transformers' advice and progress bars back, and leave both as they were."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
