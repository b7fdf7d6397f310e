"""What decides about TensorRT engines before TensorRT does: requirements, the rebuild offer, notes and profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.engines import REQUIRES, engine_folder, gpu_machine
from fakes.packages import spec
from runoff.backends.engine import (
    EngineNote,
    Here,
    Profile,
    bare_dtype,
    choose_profile,
    engine_dtype,
    facts_of,
    plan_profiles,
    read_note,
    rebuild_offer,
    stored_precision,
    unmet,
    why_not,
)
from runoff.errors import FormatMismatch, InputError, RuntimeLoadError
from runoff.types import DType, Precision, Signature, TensorSpec

HERE = facts_of(gpu_machine())
TEXT = Signature(
    (TensorSpec("ids", DType.INT64, ("batch", "sequence")), TensorSpec("kind", DType.INT64, ("batch",))),
    (TensorSpec("logits", DType.FP32, ("batch", 2)),),
)


def test_engine_fits_the_machine_that_it_was_built_for() -> None:
    assert Here("linux-x86_64", "10.3.0", "12.6.77", "12.8", ("8.9",)) == HERE
    assert unmet(REQUIRES, HERE) == []
    assert unmet({}, Here("linux-x86_64")) == []


@pytest.mark.parametrize(
    ("requires", "reason"),
    [
        ({"tensorrt": "10.9.0"}, "built with TensorRT 10.9.0, here it is 10.3.0"),
        ({"tensorrt": "8.6.1"}, "built with TensorRT 8.6.1, here it is 10.3.0"),
        ({"cuda": "13"}, "built for CUDA 13, here it is 12.6.77"),
        ({"compute_capability": "9.0"}, "built for compute capability 9.0, here it is 8.9"),
        ({"platform": "windows-x86_64"}, "built for windows-x86_64, this is linux-x86_64"),
        ({"compute_capability": "9.0", "hardware_compatible": "no such level"}, "built for compute capability 9.0"),
        ({"tensorrt": "10.2.0", "version_compatible": "yes"}, "built with TensorRT 10.2.0"),
    ],
)
def test_difference_is_named(requires: dict[str, Any], reason: str) -> None:
    found = unmet({**REQUIRES, **requires}, HERE)
    assert len(found) == 1
    assert found[0].startswith(reason)


def test_every_difference_is_named() -> None:
    machine = facts_of(gpu_machine(tensorrt="10.9.0", capability="9.0"))
    assert unmet(REQUIRES, machine) == [
        "built with TensorRT 10.3.0, here it is 10.9.0",
        "built for compute capability 8.9, here it is 9.0",
    ]


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [
        ("10.3.0", "10.9.0.34", True),
        ("10.9.0", "10.3.0", False),
        ("8.6.1", "10.3.0", True),
        ("10.3.0", "11.1.0", True),
        ("8.6.1", "11.1.0", False),
        ("11.1.0", "10.9.0", False),
    ],
)
def test_version_compatible_engine_runs_on_later_versions(built: str, here: str, fits: bool) -> None:
    requires = {"tensorrt": built, "version_compatible": True}
    assert (unmet(requires, Here("linux-x86_64", here)) == []) is fits
    assert unmet({"tensorrt": built}, Here("linux-x86_64", here)) != []


def test_build_number_counts_only_where_both_have_one() -> None:
    assert unmet({"tensorrt": "10.3.0"}, Here("", "10.3.0.26")) == []
    assert unmet({"tensorrt": "10.3.0.25"}, Here("", "10.3.0.26")) != []


def test_hardware_compatible_engine_runs_from_ampere_on() -> None:
    requires = {"compute_capability": "8.0", "hardware_compatible": "ampere+"}
    assert unmet(requires, Here("", capabilities=("9.0",))) == []
    assert unmet(requires, Here("", capabilities=("7.5",))) == ["built for compute capability 8.0, here it is 7.5"]


def test_old_driver_is_named_when_no_toolkit_is_installed() -> None:
    machine = facts_of(gpu_machine(cuda=None, driver_cuda="11.8"))
    assert unmet(REQUIRES, machine) == ["built for CUDA 12, the driver here supports 11.8"]
    assert unmet(REQUIRES, facts_of(gpu_machine(cuda=None, driver_cuda="13.0"))) == []


def test_machine_without_a_gpu_is_named() -> None:
    machine = msgspec.structs.replace(gpu_machine(), gpus=(), devices=("cpu",))
    assert unmet(REQUIRES, facts_of(machine)) == ["built for compute capability 8.9, and there is no NVIDIA GPU"]


def test_rebuild_is_offered_from_the_onnx_package_in_the_folder(tmp_path: Path) -> None:
    folder = engine_folder(tmp_path / "m")
    engine = folder.package("trt-fp16").entry
    assert why_not(engine, gpu_machine(), folder.manifest) is None
    assert why_not(engine, gpu_machine(tensorrt="10.4.0"), folder.manifest) == (
        "built with TensorRT 10.3.0, here it is 10.4.0",
        "build it again here from onnx-fp32: runoff export MODEL --to trt --precision fp16 --force",
    )
    other = msgspec.structs.replace(folder.reference.entry, format="torch-export")
    from_source = msgspec.structs.replace(folder.manifest, packages=(other, engine))
    assert rebuild_offer(engine, from_source).startswith("build it again here: runoff export MODEL --to trt")
    alone = msgspec.structs.replace(folder.manifest, packages=(engine,))
    assert "holds nothing else" in rebuild_offer(engine, alone)


def test_note_beside_an_engine_is_read_strictly(tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    assert read_note(engine) is None
    assert stored_precision(engine) is Precision.FP32
    note = EngineNote(TEXT, Precision.FP16, REQUIRES)
    (tmp_path / "model.json").write_bytes(msgspec.json.encode(note))
    assert read_note(engine) == note
    assert stored_precision(engine) is Precision.FP16
    for text in (b"{}", b"not json", msgspec.json.encode(note)[:-1] + b', "more": 1}'):
        (tmp_path / "model.json").write_bytes(text)
        with pytest.raises(FormatMismatch, match=r"does not say what model\.engine was built for"):
            read_note(engine)
    (tmp_path / "model.json").write_bytes(b" " * (2 << 20))
    with pytest.raises(FormatMismatch, match="too large"):
        read_note(engine)


def test_dynamic_batch_has_a_profile_for_one_row_and_one_for_many() -> None:
    single, many = plan_profiles(TEXT, "dynamic", {})
    assert single.shapes == {"ids": ((1, 1), (1, 32), (1, 512)), "kind": ((1,), (1,), (1,))}
    assert many.shapes == {"ids": ((1, 1), (8, 32), (32, 512)), "kind": ((1,), (8,), (32,))}


def test_size_that_was_asked_for_is_the_largest() -> None:
    profile = plan_profiles(TEXT, 4, {"sequence": 128})[0]
    assert profile.shapes["ids"] == ((4, 1), (4, 128), (4, 128))


def test_fixed_shapes_need_no_profile() -> None:
    fixed = Signature((spec("x", "batch", 8),), (spec("y", "batch", 4),))
    assert plan_profiles(fixed, 4, {}) == ()
    assert len(plan_profiles(fixed, "dynamic", {})) == 2


@given(rows=st.integers(1, 32), size=st.integers(1, 512))
def test_first_profile_that_holds_the_shapes_is_chosen(rows: int, size: int) -> None:
    chosen = choose_profile(plan_profiles(TEXT, "dynamic", {}), {"ids": (rows, size), "kind": (rows,)})
    assert chosen == (0 if rows == 1 else 1)


@pytest.mark.parametrize("shape", [(33, 8), (2, 513), (0, 8), (2, 8, 1)])
def test_shape_outside_every_profile_is_refused_with_the_ranges(shape: tuple[int, ...]) -> None:
    profiles = [Profile({"ids": ((1, 1), (1, 8), (1, 512))}), Profile({"ids": ((1, 1), (8, 8), (32, 512))})]
    with pytest.raises(InputError) as caught:
        choose_profile(profiles, {"ids": shape})
    assert f"ids {list(shape)} is outside" in caught.value.message
    assert caught.value.message.endswith("ids [1, 1..512]; or ids [1..32, 1..512]")


def test_engine_may_hold_64_bit_integers_in_32_bits_and_nothing_else_narrower() -> None:
    ids = TEXT.inputs[0]
    assert engine_dtype(ids, "INT32", "trt-fp32") is DType.INT32
    assert engine_dtype(ids, "INT64", "trt-fp32") is DType.INT64
    assert engine_dtype(TensorSpec("m", DType.BF16, (1,)), "BF16", "trt-fp32") is DType.BF16
    for given_spec, name in ((ids, "BOOL"), (spec("x", 1), "HALF"), (spec("x", 1), "FP8")):
        with pytest.raises(RuntimeLoadError, match=f"its engine has '{given_spec.name}' as {name}"):
            engine_dtype(given_spec, name, "trt-fp32")


def test_tensor_of_a_bare_engine_that_no_array_holds_is_refused() -> None:
    assert bare_dtype("x", "BOOL") is DType.BOOL
    with pytest.raises(FormatMismatch, match="'x' is a TensorRT FP8"):
        bare_dtype("x", "FP8")
