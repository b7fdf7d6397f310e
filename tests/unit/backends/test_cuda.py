"""CUDA's own binding where there is no driver: every refusal in words. What it does on a GPU is in tests/device."""

from __future__ import annotations

import pytest

from runoff.backends.cuda import Buffer, Stream
from runoff.environment.accelerators import read_nvidia
from runoff.errors import RuntimeLoadError, RuntimeRunError
from runoff.types import Device

no_gpu = pytest.mark.skipif(bool(read_nvidia().gpus), reason="says what happens without a GPU, and there is one")


@no_gpu
def test_stream_is_refused_in_words_without_a_driver() -> None:
    with pytest.raises(RuntimeLoadError, match="device cuda:1 cannot be used: CUDA failed in cudaGet") as caught:
        Stream(Device("cuda", 1))
    assert "driver" in (caught.value.hint or "")


@no_gpu
def test_memory_is_refused_in_words_without_a_driver() -> None:
    import numpy as np

    buffer = Buffer()
    with pytest.raises(RuntimeRunError, match="CUDA failed in cudaMalloc"):
        buffer.hold((2, 3), np.dtype(np.float32))
    assert (buffer.pointer, buffer.nbytes) == (0, 0)
    buffer.free()
