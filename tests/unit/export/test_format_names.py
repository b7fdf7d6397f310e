"""The words for formats: each one of the field's is a format here or says why it is none."""

from __future__ import annotations

import pytest

from runoff.backends import table
from runoff.errors import UnknownName
from runoff.export.conversions import STEPS
from runoff.export.format_names import find_format, no_format, quantize_hint
from runoff.types import Precision

WORDS = (
    *("onnx", "openvino", "litert", "executorch", "coreml", "trt", "iree", "ncnn", "web", "torch-export", "aoti"),
    *("tfjs", "tvm", "snpe", "rknn"),
)


@pytest.mark.parametrize("word", WORDS)
def test_word_of_the_field_is_a_format_or_a_reason(word: str) -> None:
    found = find_format(word)
    if found is None:
        assert no_format(word).message.startswith("this version of runoff makes no files for ")
        assert no_format(word).hint
    else:
        makeable = {step.target_format for step in STEPS}
        assert found in makeable or table.backends_for(found)


def test_backend_and_alias_mean_the_format_that_it_opens_first() -> None:
    assert [find_format(word) for word in ("coreml", "ov", "tflite")] == ["mlpackage", "openvino", "litert"]


def test_word_that_means_nothing_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'onnx'"):
        find_format("onix")


def test_quantise_command_is_offered_only_where_no_conversion_leads() -> None:
    assert quantize_hint("onnx", Precision.INT8, "a b") == (
        "runoff quantize 'a b' --precision int8-static --backend onnx"
    )
    assert quantize_hint("litert", Precision.INT8, "m") is None
    assert quantize_hint("ncnn", Precision.INT8, "m") is None
