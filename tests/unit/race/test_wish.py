import pytest

from runoff.errors import UnknownName
from runoff.race.wish import Wish, make_wish, parse_device
from runoff.types import CPU, Device


@pytest.mark.parametrize(
    ("text", "device"), [("cpu", CPU), ("CUDA:1", Device("cuda", 1)), ("npu", Device("npu")), ("gpu", Device("gpu"))]
)
def test_device_is_read(text, device) -> None:
    assert parse_device(text) == device


@pytest.mark.parametrize("text", ["tpu", "", "cuda:", "cuda:-1", "cuda:one"])
def test_unknown_device_is_refused_and_the_known_ones_named(text) -> None:
    with pytest.raises(UnknownName, match="known: cpu, cuda, gpu, npu, mps"):
        parse_device(text)


def test_nothing_said_is_the_plain_wish() -> None:
    assert make_wish() == Wish()


def test_wish_has_the_backends_by_their_ids_in_order() -> None:
    wish = make_wish(backend=["ort", "PyTorch"], precision="default")
    assert (wish.backends, wish.precisions) == (("onnx", "torch"), ("default",))
