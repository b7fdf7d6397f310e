"""This machine as one value: `describe_environment` probes it, `Environment` holds the facts.

The fingerprint digests exactly the facts that a measurement depends on: a record of a race is valid only under its
own. Everything but the probing is pure, so an `Environment` can be written down, read back and made up. Knows
nothing of models and backends.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runoff import __version__
from runoff.environment import libraries as installed
from runoff.environment.accelerators import Gpu, read_intel, read_nvidia
from runoff.environment.execution_providers import Answer, Question
from runoff.environment.hardware import Cpu, Memory, OperatingSystem, read_cpu, read_memory, read_operating_system
from runoff.environment.libraries import LIBRARIES, TOOLS, LibraryFacts, Plugin
from runoff.types import Device

if TYPE_CHECKING:
    from rich.console import RenderableType


class Environment(msgspec.Struct, frozen=True):
    """Facts about this machine, as plain values.

    Attributes:
        python: its version, such as `3.12.4`.
        cuda_version: the newest CUDA that the NVIDIA driver supports.
        cuda_toolkit_version: the CUDA runtime that is installed.
        libraries: runtimes of this platform by id, installed or not; see `libraries.LIBRARIES`.
        tools: libraries that compute no output of a model, by id.
        execution_providers: of ONNX Runtime, in its own order.
        plugins: distributions that add backends; they were not loaded.
        extras: of Runoff, that are installed.
        devices: such as `cpu` and `cuda:0`; that one is there does not say which library can drive it.
        notes: what could not be told, and what looks wrong.
    """

    os: OperatingSystem
    python: str
    cpu: Cpu
    memory: Memory
    runoff_version: str
    gpus: tuple[Gpu, ...] = ()
    cuda_version: str | None = None
    cuda_toolkit_version: str | None = None
    tensorrt_version: str | None = None
    libraries: dict[str, LibraryFacts] = {}
    tools: dict[str, LibraryFacts] = {}
    execution_providers: tuple[str, ...] = ()
    plugins: tuple[Plugin, ...] = ()
    extras: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of `fingerprint_facts`, in hexadecimal."""
        return hashlib.sha256(msgspec.json.encode(self.fingerprint_facts())).hexdigest()

    def fingerprint_facts(self) -> dict[str, str]:
        """The facts that a measurement depends on, by sorted name. A fact that is not there has no entry.

        Not among them: free memory, the kernel's release, the name of the machine, the time, paths, tools and extras.
        """
        facts = {
            "arch": self.os.arch,
            "os": self.os.name,
            "python": ".".join(self.python.split(".")[:2]),
            "cpu.model": self.cpu.model,
            "cpu.isa": " ".join(self.cpu.isa),
            "cpu.usable_cores": str(self.cpu.usable_cores),
            "devices": " ".join(self.devices),
            "cuda": self.cuda_version or "",
            "cuda_toolkit": self.cuda_toolkit_version or "",
            "execution_providers": " ".join(self.execution_providers),
        }
        for index, gpu in enumerate(self.gpus):
            facts[f"gpu.{index}.name"] = gpu.name
            facts[f"gpu.{index}.driver"] = gpu.driver
            facts[f"gpu.{index}.compute_capability"] = gpu.compute_capability
        for name, library in self.libraries.items():
            if library.version is not None:
                facts[name] = library.version if library.usable else f"{library.version} (unusable)"
        for plugin in self.plugins:
            facts[f"plugin.{plugin.name}"] = f"{plugin.distribution} {plugin.version}"
        return {name: facts[name] for name in sorted(facts) if facts[name]}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON data, the fingerprint included; `msgspec.convert` reads it back."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        return {**data, "fingerprint": self.fingerprint}

    def has_device(self, device: Device) -> bool:
        """Whether this machine has a device; one without an index stands for any of its kind."""
        kinds = {known.partition(":")[0] for known in self.devices}
        return str(device) in self.devices or (device.index is None and device.kind in kinds)

    def __rich__(self) -> RenderableType:
        """The tables that rich prints."""
        from runoff.environment.table import render

        return render(self)

    def __str__(self) -> str:
        from runoff.environment.table import as_text

        return as_text(self)


def describe_environment() -> Environment:
    """Probe this machine. Imports no runtime library here, and fails for none that is broken."""
    row = next(row for row in LIBRARIES if row.id == "onnxruntime")
    if not installed.is_importable(row.import_name):
        return _probe(Answer)
    with Question() as question:
        return _probe(question.answer)


def _probe(ask_providers: Callable[[], Answer]) -> Environment:
    root = Path("/")
    version_of = cache(installed.installed_version)
    system, nvidia = read_operating_system(), read_nvidia()
    devices = _devices(system, nvidia.gpus, read_intel(root))
    requirements = installed.own_requirements(version_of)
    computing = [row for row in LIBRARIES if row.computes_on(sys.platform)]
    converting = [row for row in LIBRARIES if row not in computing]
    runtimes = installed.find_libraries(computing, requirements, version_of, devices=devices)
    environment = Environment(
        os=system,
        python=platform.python_version(),
        cpu=read_cpu(),
        memory=read_memory(),
        runoff_version=__version__,
        gpus=nvidia.gpus,
        cuda_version=nvidia.cuda_version,
        cuda_toolkit_version=installed.cuda_toolkit_version(root, version_of),
        tensorrt_version=runtimes["tensorrt"].version,
        libraries=runtimes,
        tools=installed.find_libraries([*TOOLS, *converting], requirements, version_of, devices=devices),
        plugins=installed.installed_plugins(),
        extras=requirements.installed_extras(),
        devices=devices,
        notes=(*([nvidia.note] if nvidia.note else []), *installed.rivals([*LIBRARIES, *TOOLS], version_of)),
    )
    return with_answer(environment, ask_providers())


def with_answer(environment: Environment, answer: Answer) -> Environment:
    """The environment with what ONNX Runtime's own process said: its providers, or why it is broken."""
    found = environment.libraries["onnxruntime"]
    if answer.problem and found.version and found.distribution and not found.problem:
        install = installed.repair(found.distribution, found.version)
        found = msgspec.structs.replace(found, problem=answer.problem, install=install)
    return msgspec.structs.replace(
        environment,
        libraries={**environment.libraries, "onnxruntime": found},
        execution_providers=answer.providers,
    )


def _devices(system: OperatingSystem, gpus: Sequence[Gpu], intel: Sequence[str]) -> tuple[str, ...]:
    # Every Mac with an Apple processor has a GPU that Metal drives.
    mps = ["mps"] if (system.name, system.arch) == ("Darwin", "aarch64") else []
    return ("cpu", *(f"cuda:{index}" for index in range(len(gpus))), *intel, *mps)


def changed_facts(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """How two sets of fingerprint facts differ: a sentence for each fact, such as `torch: 2.8.0 -> 2.9.1`."""
    sentences = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if before is None:
            sentences.append(f"{name}: added, {after}")
        elif after is None:
            sentences.append(f"{name}: gone, was {before}")
        elif name in _SETS:
            sentences.append(f"{name}: {_difference(before.split(), after.split())}")
        else:
            sentences.append(f"{name}: {before} -> {after}")
    return sentences


_SETS = frozenset({"cpu.isa", "devices", "execution_providers"})
"""Facts that hold several words, of which the ones that changed are worth saying."""


def _difference(before: list[str], after: list[str]) -> str:
    lost = [word for word in before if word not in after]
    gained = [word for word in after if word not in before]
    parts = [f"lost {' '.join(lost)}"] * bool(lost) + [f"gained {' '.join(gained)}"] * bool(gained)
    return ", ".join(parts) or f"order {' '.join(before)} -> {' '.join(after)}"
