"""Runoff: one front door to every inference runtime.

The public names are resolved on first use, so that `import runoff` loads no runtime library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runoff.auto import AutoModel as AutoModel
    from runoff.environment.describe import Environment as Environment
    from runoff.errors import RunoffError as RunoffError
    from runoff.export.packaging import package as package
    from runoff.models.listing import list_models as list_models
    from runoff.race.advice.api import advise as advise
    from runoff.race.api import race_model as race_model

__version__ = "0.1.0"

_PUBLIC = {
    "AutoModel": "runoff.auto",
    "Environment": "runoff.environment.describe",
    "RunoffError": "runoff.errors",
    "list_models": "runoff.models.listing",
    "advise": "runoff.race.advice.api",
    "package": "runoff.export.packaging",
    "race_model": "runoff.race.api",
}

__all__ = ["AutoModel", "Environment", "RunoffError", "__version__", "advise", "list_models", "package", "race_model"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        message = f"module 'runoff' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
