import msgspec
import pytest

from fakes.race_facts import package
from runoff.backends import table
from runoff.errors import UnknownName
from runoff.race.candidates import Candidate, list_candidates, make_candidate
from runoff.types import CPU, Device, Precision

TORCH, ONNX, OPENVINO = package("torch-fp32"), package("onnx-fp32"), package("openvino-fp32")


def ids(*arguments, **options) -> list[str]:
    return [candidate.id for candidate in list_candidates(*arguments, **options)]


def test_candidates_come_in_the_order_of_the_table_whatever_that_of_the_packages() -> None:
    assert ids([OPENVINO, ONNX, TORCH], [1]) == ids([TORCH, ONNX, OPENVINO], [1])
    assert ids([ONNX, OPENVINO], [2, 1]) == [
        "onnx-fp32@2",
        "onnx-fp32@1",
        "openvino-fp32@2",
        "openvino-fp32@1",
        "openvino-fp32+default@2",
        "openvino-fp32+default@1",
    ]


def test_precision_hints_only_lower_an_fp32_package() -> None:
    assert ids([package("onnx-int8", "int8")], [1]) == ["onnx-int8@1"]
    assert ids([package("torch-bf16", "bf16")], [1]) == ["torch-bf16@1", "torch-bf16+compile@1"]


def test_what_stays_in_fp32_of_a_quantised_package_can_run_at_the_precision_that_openvino_prefers() -> None:
    assert ids([package("openvino-int8", "int8")], [1]) == ["openvino-int8@1", "openvino-int8+default@1"]
    assert ids([package("openvino-bf16", "bf16")], [1]) == ["openvino-bf16@1"]


def test_device_other_than_the_cpu_is_in_the_id() -> None:
    assert ids([ONNX], [1], Device("cuda", 0)) == ["onnx-fp32#cuda:0@1"]
    made = make_candidate(ONNX, table.row("onnx"), table.row("onnx").variants[0])
    assert (made.id, made.device, made.num_threads) == ("onnx-fp32", CPU, None)


def test_only_admits_all_thread_counts_of_a_name_and_one_of_a_full_id() -> None:
    assert ids([ONNX, OPENVINO], [2, 1], only=["onnx-fp32"]) == ["onnx-fp32@2", "onnx-fp32@1"]
    assert ids([ONNX, OPENVINO], [2, 1], only=["openvino-fp32+default@1"]) == ["openvino-fp32+default@1"]


@pytest.mark.parametrize("name", ["onnx-fp33", "onnx-fp32@3"])
def test_unknown_candidate_is_refused_and_the_known_ones_named(name: str) -> None:
    with pytest.raises(UnknownName, match=name) as caught:
        list_candidates([ONNX, OPENVINO], [2, 1], only=[name])
    assert "openvino-fp32+default" in str(caught.value)


def test_candidate_is_the_same_when_written_down_and_read_back() -> None:
    for candidate in list_candidates([TORCH, ONNX, OPENVINO], [4], Device("cuda", 1)):
        assert msgspec.json.decode(msgspec.json.encode(candidate), type=Candidate) == candidate


def test_session_options_are_those_of_the_variant() -> None:
    (default,) = list_candidates([OPENVINO], [3], only=["openvino-fp32+default"])
    assert default.session_options().precision == "default"
    assert default.session_options().num_threads == 3
    (plain,) = list_candidates([OPENVINO], [3], only=["openvino-fp32"])
    assert plain.session_options().precision is Precision.FP32
    (compiled,) = list_candidates([TORCH], [3], only=["torch-fp32+compile"])
    assert compiled.session_options().backend["compile"] is True
