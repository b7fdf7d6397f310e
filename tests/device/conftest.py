"""What every test on a GPU shares."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def full_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's convolutions compute in TF32 on a GPU unless told otherwise; the tolerances here are those of fp32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
