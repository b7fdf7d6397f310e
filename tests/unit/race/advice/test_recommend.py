"""Rules held against a model, a machine and a record: pure, so with made-up ones."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fakes.race_facts import SIGNATURE, entrant, environment, fidelity, manifest, package, record, timing
from runoff.environment.describe import Environment
from runoff.export.plan import Available
from runoff.export.weights import Weights
from runoff.models.manifest import PackageEntry
from runoff.race.advice.profile import Profile
from runoff.race.advice.recommend import Facts, Questions, artifacts, recommend
from runoff.race.advice.rules import HARDWARE, SENSITIVITIES
from runoff.race.record import Record
from runoff.types import Precision

LINEAR, CONVOLUTION = Weights(90, 10), Weights(10, 90)
EVERYTHING = {"onnxruntime": "1.31.1", "openvino": "2026.4.1", "torch": "2.13.0", "ai_edge_litert": "2.3.0"}


def _environment(model: str = "AMD EPYC") -> Environment:
    made = environment(**EVERYTHING)
    return msgspec.structs.replace(made, cpu=msgspec.structs.replace(made.cpu, model=model))


def _facts(
    *packages: PackageEntry,
    weights: Weights | None = CONVOLUTION,
    found: Record | None = None,
    machine: Environment | None = None,
    **profile: Any,
) -> Facts:
    entries = packages or (package("torch-fp32"),)
    available = tuple(Available(each.id, each.format, each.precision) for each in entries)
    about = Profile("net", entries[0].id, available, SIGNATURE, 1000, "dynamic", weights, has_data=True)
    return Facts(
        "net",
        msgspec.structs.replace(about, **profile),
        manifest(*entries),
        machine or _environment(),
        found,
        lambda _: True,
    )


def _ask(*hardware: str, sensitivity: str = "latency", targets: str = "few") -> Questions:
    return Questions(hardware, sensitivity, targets)  # type: ignore[arg-type]


def test_nothing_is_claimed_without_a_record() -> None:
    found, _ = recommend(_ask("nvidia", "intel", "amd", "arm", "apple", "android", "browser"), _facts())
    assert {each.hardware for each in found} == {"nvidia", "intel", "amd", "arm", "apple", "android", "browser"}
    assert all(each.measured is None for each in found)
    assert all((each.unmeasured or "").startswith("not measured on this machine: ") for each in found)


def test_each_kind_of_hardware_has_one_form_to_ship_and_commands() -> None:
    found, _ = recommend(_ask("intel", "android"), _facts())
    assert [each.role for each in found if each.hardware == "intel"][:2] == ["ship", "fallback"]
    assert found[0].commands == (
        "runoff quantize net --precision int8-static --backend openvino",
        "runoff race net --candidates openvino-int8",
    )


def test_many_targets_ship_one_file_and_others_where_they_pay() -> None:
    found, _ = recommend(_ask("intel", targets="many"), _facts())
    assert [(each.candidate, each.role) for each in found[:2]] == [
        ("onnx-fp32", "ship"),
        ("openvino-int8", "where it pays"),
    ]


def test_linear_models_are_quantised_without_data_and_convolutions_with() -> None:
    def first(weights: Weights | None) -> str:
        return recommend(_ask("browser", sensitivity="size"), _facts(weights=weights))[0][0].candidate

    assert (first(LINEAR), first(CONVOLUTION), first(None)) == (
        "onnx-int8-dynamic",
        "onnx-int8-static",
        "onnx-int8-static",
    )


def test_model_without_data_is_told_to_bring_some() -> None:
    found, _ = recommend(_ask("intel"), _facts(has_data=False))
    assert "--data FOLDER" in found[0].commands[0]
    assert any("no data of its own" in why for why in found[0].why)


@pytest.mark.parametrize("hardware", HARDWARE)
@pytest.mark.parametrize("sensitivity", SENSITIVITIES)
def test_model_that_is_only_an_onnx_file_can_be_shipped_everywhere(hardware: str, sensitivity: str) -> None:
    found, _ = recommend(_ask(hardware, sensitivity=sensitivity), _facts(package("onnx-fp32")))
    assert found[0].role == "ship"


def test_form_that_no_conversion_leads_to_is_refused_with_the_reason() -> None:
    found, refused = recommend(_ask("android"), _facts(package("onnx-fp32")))
    assert [each.format for each in found] == ["onnx"]
    assert any("litert at fp32" in each.form and "no conversion leads" in each.reason for each in refused)


def test_measured_forms_come_first_with_their_figures_on_the_hardware_itself() -> None:
    torch, onnx, openvino = package("torch-fp32"), package("onnx-fp32"), package("openvino-fp32")
    raced = record(entrant(onnx, timing([2.0])), entrant(openvino, timing([1.0])), of=_environment())
    found, _ = recommend(_ask("amd"), _facts(torch, onnx, openvino, found=raced))
    assert [each.candidate for each in found] == ["openvino-fp32", "onnx-fp32", "onnx-int8-static"]
    assert found[0].role == "ship" and found[0].measured is not None
    assert found[0].measured.p50_ms == 1.0 and found[0].measured.holds_for == "all of it"
    assert "best by latency of 2 forms raced on this machine" in found[0].why


def test_figures_of_another_cpu_do_not_reorder_and_say_what_holds() -> None:
    torch, onnx, openvino = package("torch-fp32"), package("onnx-fp32"), package("openvino-fp32")
    raced = record(entrant(onnx, timing([2.0])), entrant(openvino, timing([1.0])), of=_environment())
    found, _ = recommend(_ask("intel"), _facts(torch, onnx, openvino, found=raced))
    assert found[0].candidate == "openvino-int8" and found[0].measured is None
    timed = next(each for each in found if each.candidate == "openvino-fp32")
    assert timed.measured is not None and timed.measured.holds_for.startswith("size")


def test_form_outside_its_contract_is_refused_and_accuracy_asks_for_exact() -> None:
    torch, onnx = package("torch-fp32"), package("onnx-fp32")
    off = entrant(onnx, timing([1.0]), fidelity=fidelity(1e-2, centred_cosine=0.9999))
    facts = _facts(torch, onnx, found=record(off, of=_environment()))
    for sensitivity in ("latency", "accuracy"):
        found, refused = recommend(_ask("amd", sensitivity=sensitivity), facts)
        assert "onnx-fp32" not in [each.candidate for each in found]
        assert any(each.form == "onnx-fp32" and "outside its contract" in each.reason for each in refused)


def test_best_of_the_record_is_named_though_no_rule_does() -> None:
    torch, onnx, litert = package("torch-fp32"), package("onnx-fp32"), package("litert-fp32")
    raced = record(entrant(onnx, timing([2.0])), entrant(litert, timing([1.0])), of=_environment())
    found, _ = recommend(_ask("amd"), _facts(torch, onnx, litert, found=raced))
    assert found[0].candidate == "litert-fp32"
    assert found[0].why[0].startswith("no rule names it: the best of ")


def test_only_what_opens_on_this_machine_is_raced() -> None:
    names = [each.candidate for each in artifacts(_ask("nvidia", "intel", "apple", "browser"), _facts())]
    assert "onnx-fp16" not in names and "coreml-fp16" not in names
    assert names[:3] == ["openvino-int8", "openvino-fp32+default", "openvino-fp32"]


def test_default_precision_is_a_candidate_of_the_fp32_package() -> None:
    found, _ = recommend(_ask("intel"), _facts())
    default = next(each for each in found if each.candidate.endswith("+default"))
    assert default.precision is Precision.FP32
    assert default.commands[0] == "runoff export net --to openvino"
