"""Does every extra install here, what does it weigh, and is its backend then ready?

    python benchmarks/extras.py [--extras litert,hf] [--json build/extras.json] [--write] [--force]

For each extra of pyproject.toml that is for this platform: a new virtual environment, `pip install` of this source tree
with the extra at the versions of constraints.txt, `pip check`, the size of what was installed, what `runoff env --json`
says of the libraries that the extra brings, and how long importing each takes. The environment is deleted again.

Results are kept in the JSON file after every extra, and an extra whose requirements are the same is not installed
again; a changed pin alone is not noticed (--force). `--write` puts the table between the markers in docs/runtimes.md.
The exit code is 1 when an extra for this platform failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from runoff.environment.libraries import LIBRARIES, TOOLS, Library

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "runtimes.md"
BEGIN, END = "<!-- extras:begin -->", "<!-- extras:end -->"
BASE = "(base)"
TIMEOUT_S = 3600
IMPORTS = 3
_CUDA = "a CUDA build of several gigabytes, for machines with an NVIDIA GPU"
NOT_HERE = {
    "torch-cu126": _CUDA,
    "torch-cu128": _CUDA,
    "torch-cu130": _CUDA,
    "torch-jp6-cu126": "for NVIDIA Jetson; its builds are on NVIDIA's index",
    "onnx-cu12": "for machines with an NVIDIA GPU",
    "onnx-cu11": "for machines with an NVIDIA GPU",
    "onnx-directml": "for Windows",
    "trt10": "what the package index has of TensorRT is a stub that fetches the library from NVIDIA's own index",
    "trt8": "what the package index has of TensorRT is a stub that fetches the library from NVIDIA's own index",
    "docs": "the same as `dev`",
}
"""Extras that are not tried on Linux without an NVIDIA GPU, and why."""
ONLY_BUILD = {"onnx-openvino": "onnxruntime-openvino"}
"""Builds that share the import name of the base's onnxruntime: installed again alone, as docs/installation.md says."""


IMPORTED = {"ai_edge_litert": "ai_edge_litert.interpreter", "executorch": "executorch.runtime"}
"""What a backend imports, where the top-level module alone holds nothing."""


class Import(msgspec.Struct, frozen=True):
    """A library that the extra brings: whether `runoff env` calls it ready, and what importing it takes."""

    title: str
    version: str | None
    problem: str | None
    seconds: float | None


class Result(msgspec.Struct, frozen=True):
    """What came of one extra.

    Attributes:
        key: digest of its requirements.
        failure: why it did not install or is not ready; None when all is well.
        size_mb: of site-packages, in MiB as `du -sm` counts, with byte code.
        env_s: wall time of `runoff env --json`.
        check: what `pip check` found, or None.
    """

    key: str
    failure: str | None = None
    size_mb: int = 0
    install_s: float = 0.0
    env_s: float = 0.0
    imports: tuple[Import, ...] = ()
    check: str | None = None
    python: str = ""


def read_project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def flatten(project: dict[str, Any], extra: str) -> Iterator[Requirement]:
    """What the extra requires beyond the base, extras that it names included."""
    for text in project["optional-dependencies"].get(extra, ()):
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != project["name"]:
            yield requirement
        for inner in sorted(requirement.extras) if canonicalize_name(requirement.name) == project["name"] else ():
            yield from flatten(project, inner)


def brought(project: dict[str, Any], extra: str) -> list[Library]:
    """The libraries of Runoff's tables that an extra brings; those of the base for the base."""
    required = flatten(project, extra) if extra != BASE else map(Requirement, project["dependencies"])
    names = {canonicalize_name(requirement.name) for requirement in required}
    return [row for row in (*LIBRARIES, *TOOLS) if names & {canonicalize_name(name) for name in row.distributions}]


def key_of(project: dict[str, Any], extra: str) -> str:
    """What a kept result holds for."""
    texts = sorted({*project["dependencies"], *(str(requirement) for requirement in flatten(project, extra))})
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def call(command: list[str | Path], timeout_s: float = TIMEOUT_S) -> str:
    """Run a command away from the source tree, and answer its output.

    Raises:
        RuntimeError: it failed; the message ends with its last lines.
    """
    words = [str(word) for word in command]
    done = subprocess.run(
        ["env", "--unset=PYTHONPATH", "--unset=PYTHONHOME", *words],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd=tempfile.gettempdir(),
    )
    if done.returncode != 0:
        tail = " / ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
        raise RuntimeError(f"{Path(words[0]).name} {' '.join(words[1:4])}: {tail}")
    return done.stdout


class Place:
    """A virtual environment without pip of its own, so that its size is that of what was installed."""

    def __init__(self, root: Path) -> None:
        call([sys.executable, "-m", "venv", "--without-pip", root])
        self.root = root
        self.python = root / "bin" / "python"

    def pip(self, *words: str | Path) -> str:
        """Run the caller's pip on this environment."""
        return call([sys.executable, "-m", "pip", "--python", self.python, *words])

    def install(self, *wanted: str | Path) -> None:
        """Install at the versions of constraints.txt; refused where that would fetch a CUDA build of PyTorch.

        Raises:
            RuntimeError: pip failed, or would fetch packages for CUDA.
        """
        words = ["install", "--quiet", "-c", str(ROOT / "constraints.txt")]
        plan = json.loads(self.pip(*words, "--dry-run", "--report", "-", *wanted))
        cuda = [
            item["metadata"]["name"]
            for item in plan["install"]
            if item["metadata"]["name"].startswith(("nvidia-c", "cuda-"))
        ]
        if cuda:
            raise RuntimeError(f"pip would fetch {len(cuda)} packages for CUDA: choose PyTorch's CPU build first")
        self.pip(*words, *wanted)

    def size_mb(self) -> int:
        """What site-packages takes on disk, in MiB."""
        site = next((self.root / "lib").glob("python*/site-packages"))
        return round(sum(path.lstat().st_blocks * 512 for path in site.rglob("*")) / 2**20)

    def import_s(self, module: str) -> float:
        """Seconds to import a module in a new process: the median of three, after one that warms the disk."""
        code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
        seconds = [
            float(call([self.python, "-P", "-W", "ignore", "-c", code], 300).split()[-1]) for _ in range(IMPORTS + 1)
        ]
        return statistics.median(seconds[1:])


def try_extra(project: dict[str, Any], extra: str, wheel: Path, work: Path) -> Result:
    """Install one extra in a new environment and look at it."""
    key = key_of(project, extra)
    try:
        place = Place(work / "venv")
        name = project["name"] if extra == BASE else f"{project['name']}[{extra}]"
        started_s = time.perf_counter()
        place.install(f"{name} @ {wheel.as_uri()}")
        check = None
        try:
            place.pip("check")
        except RuntimeError as error:
            check = str(error).partition(": ")[2]
        if extra in ONLY_BUILD:
            build = ONLY_BUILD[extra]
            place.pip("uninstall", "--yes", "--quiet", "onnxruntime", build)
            place.pip("install", "--quiet", "--no-deps", build)
        install_s = time.perf_counter() - started_s
        return look(project, extra, place, Result(key, check=check, install_s=round(install_s, 1)))
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return Result(key, failure=str(error))


def look(project: dict[str, Any], extra: str, place: Place, so_far: Result) -> Result:
    """What `runoff env` says of the environment, and its figures."""
    command: list[str | Path] = [place.root / "bin" / "runoff", "env", "--json"]
    facts = json.loads(call(command))
    known = {**facts["libraries"], **facts["tools"]}
    imports = []
    for row in brought(project, extra):
        found = known.get(row.id) or {}
        version, problem = found.get("version"), found.get("problem")
        seconds = (
            round(place.import_s(IMPORTED.get(row.import_name, row.import_name)), 2)
            if version and not problem
            else None
        )
        imports.append(Import(row.title, version, problem, seconds))
    lacking = [f"{each.title}: {each.problem or 'not installed'}" for each in imports if each.seconds is None]
    if extra not in (BASE, *facts["extras"]):
        lacking.append(f"`runoff env` does not list the extra; it lists {', '.join(facts['extras'])}")
    started_s = time.perf_counter()
    call(command)
    return msgspec.structs.replace(
        so_far,
        failure="; ".join(lacking) or None,
        size_mb=place.size_mb(),
        env_s=round(time.perf_counter() - started_s, 2),
        imports=tuple(imports),
        python=facts["python"],
    )


def rows(project: dict[str, Any], results: dict[str, Result]) -> Iterator[tuple[str, ...]]:
    """The cells of the table, one row an extra."""
    base = results.get(BASE)
    for extra in (BASE, *project["optional-dependencies"]):
        result = results.get(extra)
        name = extra if extra == BASE else f"`{extra}`"
        if extra in NOT_HERE:
            yield name, "not tried", "", "", NOT_HERE[extra]
        elif result is None:
            yield name, "not tried yet", "", "", ""
        elif result.failure and not result.size_mb:
            yield name, "does not install", "", "", result.failure
        else:
            size = f"{result.size_mb}"
            if base is not None and extra != BASE:
                size += f" (+{result.size_mb - base.size_mb})"
            state = "not ready" if result.failure else "ready"
            times = ", ".join(f"{each.title} {each.seconds:.2f}" for each in result.imports if each.seconds is not None)
            remark = "; ".join(part for part in (result.failure, result.check and f"pip check: {result.check}") if part)
            yield name, state, size, times or "nothing to import", remark


def table(project: dict[str, Any], results: dict[str, Result]) -> str:
    """The results as a table of Markdown."""
    head = ("extra", "`runoff env` says", "MB (beyond the base)", "import, s", "remark")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(cells)} |" for cells in rows(project, results)]
    return "\n".join(lines)


def write_page(text: str) -> None:
    """Put the table between the markers of the page."""
    page = PAGE.read_text()
    inside = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if not inside.search(page):
        raise SystemExit(f"{PAGE} has no {BEGIN}")
    PAGE.write_text(inside.sub(lambda _: f"{BEGIN}\n{text}\n{END}", page))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--extras", help="names, such as litert,hf; default: all that are for this platform")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "extras.json", help="where results are kept")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.relative_to(ROOT)}")
    parser.add_argument("--force", action="store_true", help="install again what was installed before")
    arguments = parser.parse_args()
    project = read_project()
    known = [BASE, *(name for name in project["optional-dependencies"] if name not in NOT_HERE)]
    wanted = [name.strip() for name in arguments.extras.split(",")] if arguments.extras else known
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"not for this platform, or unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    kept: Path = arguments.json
    results = msgspec.json.decode(kept.read_bytes(), type=dict[str, Result]) if kept.exists() else {}
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="runoff-extras-") as folder:
        work = Path(folder)
        call([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", work, ROOT])
        wheel = next(work.glob("*.whl"))
        for extra in wanted:
            old = results.get(extra)
            if old is not None and old.key == key_of(project, extra) and not old.failure and not arguments.force:
                print(f"{extra}: kept from an earlier run", flush=True)
                continue
            with tempfile.TemporaryDirectory(dir=work) as inner:
                result = try_extra(project, extra, wheel, Path(inner))
            results[extra] = result
            kept.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
            print(f"{extra}: {result.failure or f'{result.size_mb} MB, ready, {result.install_s} s'}", flush=True)
    print(table(project, results))
    if arguments.write:
        write_page(table(project, results))
    if any(results[name].failure for name in wanted):
        sys.exit(1)


if __name__ == "__main__":
    main()
