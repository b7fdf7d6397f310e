"""An environment as a value: its fingerprint, its changes, its tables, its way through JSON; and this machine's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runoff.environment.accelerators import Gpu
from runoff.environment.describe import Environment, changed_facts, describe_environment, with_answer
from runoff.environment.execution_providers import Answer
from runoff.environment.hardware import Cpu, Memory, OperatingSystem
from runoff.environment.libraries import LibraryFacts, Plugin
from runoff.settings import child_environment
from runoff.types import CPU, Device

_REPLACE = msgspec.structs.replace
SERVER = Environment(
    os=OperatingSystem("Linux", "6.8.0", "x86_64"),
    python="3.12.4",
    cpu=Cpu("Intel(R) Xeon(R) Platinum 8488C", ("avx2", "avx512_vnni", "amx_bf16"), 8, 4, 6),
    memory=Memory(32 << 30, 20 << 30),
    runoff_version="0.1.0",
    gpus=(Gpu("NVIDIA L4", "GPU-1", 24 << 30, "570.86", "8.9"),),
    cuda_version="12.8",
    cuda_toolkit_version="12.8.90",
    libraries={
        "torch": LibraryFacts("PyTorch", "2.9.1", distribution="torch"),
        "onnxruntime": LibraryFacts("ONNX Runtime", "1.30.0", distribution="onnxruntime"),
        "openvino": LibraryFacts("OpenVINO", install="pip install 'runoff[openvino]'"),
    },
    tools={"onnx": LibraryFacts("ONNX", "1.18.0", distribution="onnx")},
    execution_providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
    plugins=(Plugin("loud", "runoff-loud", "0.3"),),
    extras=("torch",),
    devices=("cpu", "cuda:0"),
    notes=("something to know",),
)


def _with_cpu(**changes: Any) -> Environment:
    return _REPLACE(SERVER, cpu=_REPLACE(SERVER.cpu, **changes))


def _with_gpu(**changes: Any) -> Environment:
    return _REPLACE(SERVER, gpus=(_REPLACE(SERVER.gpus[0], **changes),))


def _with_library(name: str, **changes: Any) -> Environment:
    return _REPLACE(SERVER, libraries={**SERVER.libraries, name: _REPLACE(SERVER.libraries[name], **changes)})


_MATTERS: dict[str, tuple[Environment, str]] = {
    "architecture": (_REPLACE(SERVER, os=_REPLACE(SERVER.os, arch="aarch64")), "arch: x86_64 -> aarch64"),
    "system": (_REPLACE(SERVER, os=_REPLACE(SERVER.os, name="Windows")), "os: Linux -> Windows"),
    "python": (_REPLACE(SERVER, python="3.13.0"), "python: 3.12 -> 3.13"),
    "cpu model": (_with_cpu(model="AMD"), "cpu.model: Intel(R) Xeon(R) Platinum 8488C -> AMD"),
    "isa lost": (_with_cpu(isa=("avx2", "avx512_vnni")), "cpu.isa: lost amx_bf16"),
    "isa changed": (_with_cpu(isa=("avx2", "avx512_vnni", "amx_int8")), "cpu.isa: lost amx_bf16, gained amx_int8"),
    "usable cores": (_with_cpu(usable_cores=2), "cpu.usable_cores: 6 -> 2"),
    "gpu": (_with_gpu(name="NVIDIA H200"), "gpu.0.name: NVIDIA L4 -> NVIDIA H200"),
    "gpu driver": (_with_gpu(driver="580.1"), "gpu.0.driver: 570.86 -> 580.1"),
    "gpu capability": (_with_gpu(compute_capability="9.0"), "gpu.0.compute_capability: 8.9 -> 9.0"),
    "cuda": (_REPLACE(SERVER, cuda_version="13.0"), "cuda: 12.8 -> 13.0"),
    "toolkit": (_REPLACE(SERVER, cuda_toolkit_version=None), "cuda_toolkit: gone, was 12.8.90"),
    "library": (_with_library("onnxruntime", version="1.31.1"), "onnxruntime: 1.30.0 -> 1.31.1"),
    "library added": (_with_library("openvino", version="2026.4.1"), "openvino: added, 2026.4.1"),
    "library gone": (_with_library("torch", version=None), "torch: gone, was 2.9.1"),
    "library broken": (_with_library("torch", problem="broken: it is"), "torch: 2.9.1 -> 2.9.1 (unusable)"),
    "plug-in": (
        _REPLACE(SERVER, plugins=(Plugin("loud", "runoff-loud", "0.4"),)),
        "plugin.loud: runoff-loud 0.3 -> runoff-loud 0.4",
    ),
    "providers": (
        _REPLACE(SERVER, execution_providers=("CPUExecutionProvider",)),
        "execution_providers: lost CUDAExecutionProvider",
    ),
    "order of providers": (
        _REPLACE(SERVER, execution_providers=("CPUExecutionProvider", "CUDAExecutionProvider")),
        "execution_providers: order CUDAExecutionProvider CPUExecutionProvider"
        " -> CPUExecutionProvider CUDAExecutionProvider",
    ),
    "devices": (_REPLACE(SERVER, devices=("cpu", "cuda:0", "npu")), "devices: gained npu"),
}

_MATTERS_NOT: dict[str, Environment] = {
    "kernel": _REPLACE(SERVER, os=_REPLACE(SERVER.os, release="6.9.1")),
    "python patch": _REPLACE(SERVER, python="3.12.9"),
    "free memory": _REPLACE(SERVER, memory=Memory(32 << 30, 1 << 30)),
    "memory": _REPLACE(SERVER, memory=Memory(64 << 30, 20 << 30, 8 << 30)),
    "unusable cores": _with_cpu(logical_cores=64, physical_cores=32, quota_cores=6.0),
    "gpu uuid": _with_gpu(uuid="GPU-2"),
    "tools": _REPLACE(SERVER, tools={}),
    "extras": _REPLACE(SERVER, extras=()),
    "notes": _REPLACE(SERVER, notes=()),
    "runoff": _REPLACE(SERVER, runoff_version="0.2.0"),
    "command": _with_library("openvino", install=None),
}


@pytest.mark.parametrize(("changed", "sentence"), _MATTERS.values(), ids=_MATTERS.keys())
def test_fingerprint_changes_and_says_why_when_a_fact_matters(changed: Environment, sentence: str) -> None:
    assert changed.fingerprint != SERVER.fingerprint
    assert changed_facts(SERVER.fingerprint_facts(), changed.fingerprint_facts()) == [sentence]


@pytest.mark.parametrize("changed", _MATTERS_NOT.values(), ids=_MATTERS_NOT.keys())
def test_fingerprint_stays_when_a_fact_does_not_matter(changed: Environment) -> None:
    assert changed != SERVER
    assert changed.fingerprint == SERVER.fingerprint
    assert changed_facts(SERVER.fingerprint_facts(), changed.fingerprint_facts()) == []


def test_fingerprint_facts_are_flat_and_sorted() -> None:
    facts = SERVER.fingerprint_facts()
    assert list(facts) == sorted(facts)
    assert all(isinstance(value, str) and value for value in facts.values())
    assert len(SERVER.fingerprint) == 64


def test_environment_survives_json() -> None:
    data = json.loads(json.dumps(SERVER.to_dict()))
    assert data["fingerprint"] == SERVER.fingerprint
    assert msgspec.convert(data, Environment) == SERVER


@pytest.mark.parametrize(
    ("device", "there"),
    [
        (CPU, True),
        (Device("cuda"), True),
        (Device("cuda", 0), True),
        (Device("cuda", 1), False),
        (Device("npu"), False),
        (Device("cpu", 0), False),
    ],
)
def test_device_is_there_when_the_machine_has_one(device: Device, *, there: bool) -> None:
    assert SERVER.has_device(device) is there


def test_printing_shows_every_fact() -> None:
    text = str(SERVER)
    shown = [
        "NVIDIA L4",
        "570.86",
        "8.9",
        "12.8",
        "avx512_vnni",
        "6 usable",
        "CUDAExecutionProvider",
        "runoff-loud 0.3",
    ]
    shown += ["PyTorch", "2.9.1", "not installed", "pip install 'runoff[openvino]'", "something to know", "32.0 GiB"]
    assert [word for word in shown if word not in text] == []


def test_printing_takes_words_as_they_are_when_they_look_like_markup() -> None:
    text = str(_with_library("torch", problem="broken: [red] is not [/a colour]"))
    assert "broken: [red] is not [/a colour]" in text


def test_onnxruntime_is_broken_when_its_process_says_so() -> None:
    found = with_answer(SERVER, Answer(problem="broken: it is")).libraries["onnxruntime"]
    assert found.problem == "broken: it is"
    assert found.install == "pip install --force-reinstall --no-deps onnxruntime==1.30.0"


def test_onnxruntime_stays_missing_when_it_was_never_installed() -> None:
    without = _with_library("onnxruntime", version=None, distribution=None)
    assert with_answer(without, Answer(problem="broken: it is")).libraries == without.libraries


def test_this_machine_is_described_twice_alike() -> None:
    first, second = describe_environment(), describe_environment()
    assert first.fingerprint == second.fingerprint
    assert first.devices[0] == "cpu"
    assert first.libraries["onnxruntime"].usable
    assert "CPUExecutionProvider" in first.execution_providers


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise ImportError('half an installation')", "broken: ImportError: half an installation"),
        ("import os; os.abort()", "broken: importing it ended the process by SIGABRT"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_machine_is_described_when_onnxruntime_is_broken(tmp_path: Path, code: str, expected: str) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime/__init__.py").write_text(code)
    info = tmp_path / "onnxruntime-1.99.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime\nVersion: 1.99.0\n")
    ask = "from runoff.environment.describe import *; import json; print(json.dumps(describe_environment().to_dict()))"
    done = subprocess.run(
        [sys.executable, "-c", ask], env=child_environment(PYTHONPATH=str(tmp_path)), capture_output=True, check=True
    )
    found = msgspec.convert(json.loads(done.stdout), Environment)
    assert found.libraries["onnxruntime"].version == "1.99.0"
    assert found.libraries["onnxruntime"].problem == expected
    assert found.execution_providers == ()
    assert expected in str(found)
