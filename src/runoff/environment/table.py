"""An `Environment` as tables for people. Knows nothing that the environment does not say."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from runoff.environment.describe import Environment
    from runoff.environment.libraries import LibraryFacts

_TEXT_WIDTH = 140
_GIB = 1 << 30


def render(environment: Environment) -> RenderableType:
    """The machine, then the libraries with what is missing and how to add it, then the notes."""
    machine = Table(title="Environment", title_justify="left", show_header=False)
    machine.add_column(style="bold", no_wrap=True)
    machine.add_column()
    for name, value in _machine(environment):
        machine.add_row(name, Text(value))
    runtimes = Table(title="Libraries", title_justify="left")
    for title in ("library", "version", "remark"):
        runtimes.add_column(title)
    for facts in environment.libraries.values():
        runtimes.add_row(*_library(facts))
    runtimes.add_section()
    for facts in environment.tools.values():
        runtimes.add_row(*_library(facts), style="dim")
    notes = [Text(f"note: {note}") for note in environment.notes]
    return Group(machine, runtimes, *notes)


def as_text(environment: Environment) -> str:
    """The same tables as plain text."""
    out = io.StringIO()
    Console(file=out, width=_TEXT_WIDTH, color_system=None, force_terminal=False).print(render(environment))
    return out.getvalue().rstrip("\n")


def _machine(environment: Environment) -> Iterator[tuple[str, str]]:
    cpu, memory = environment.cpu, environment.memory
    yield "runoff", environment.runoff_version
    yield "system", f"{environment.os.name} {environment.os.release}, {environment.os.arch}"
    yield "Python", environment.python
    yield "CPU", cpu.model
    yield "cores", _cores(environment)
    yield "CPU features", " ".join(cpu.isa) or "none that runtimes look for"
    limit = "" if memory.limit_bytes is None else f", limited to {memory.limit_bytes / _GIB:.1f} GiB"
    yield "memory", f"{memory.total_bytes / _GIB:.1f} GiB, {memory.available_bytes / _GIB:.1f} GiB free{limit}"
    for index, gpu in enumerate(environment.gpus):
        size = "shared memory" if gpu.memory_bytes is None else f"{gpu.memory_bytes / _GIB:.1f} GiB"
        about = f"{size}, compute capability {gpu.compute_capability}, driver {gpu.driver}"
        yield f"GPU {index}", f"{gpu.name}, {about}"
    if not environment.gpus:
        yield "NVIDIA GPUs", "none"
    toolkit = f"runtime {environment.cuda_toolkit_version}" if environment.cuda_toolkit_version else ""
    driver = f"driver up to {environment.cuda_version}" if environment.cuda_version else ""
    yield "CUDA", ", ".join(part for part in (driver, toolkit) if part) or "none"
    yield "TensorRT", environment.tensorrt_version or "none"
    yield "devices", " ".join(environment.devices)
    yield "execution providers", " ".join(environment.execution_providers) or "none"
    plugins = [f"{plugin.name} ({plugin.distribution} {plugin.version})" for plugin in environment.plugins]
    yield "plug-ins", ", ".join(plugins) or "none"
    yield "extras", " ".join(environment.extras) or "none"
    yield "fingerprint", environment.fingerprint[:16]


def _cores(environment: Environment) -> str:
    cpu = environment.cpu
    quota = "" if cpu.quota_cores is None else f" under a quota of {cpu.quota_cores:g}"
    return f"{cpu.usable_cores} usable{quota}; {cpu.physical_cores} physical, {cpu.logical_cores} logical"


def _library(facts: LibraryFacts) -> tuple[str, Text, Text]:
    version = facts.version or "not installed"
    style = "dim" if facts.version is None else "green" if facts.usable else "red"
    return facts.title, Text(version, style), Text("\n".join(part for part in (facts.problem, facts.install) if part))
