"""The libraries that Runoff can use: which are installed, in which version, and what adds those that are not.

Told by the metadata of distributions; no library is imported. What only an import can tell is asked in a process of
its own: see execution_providers.py.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from runoff.environment.cgroup import read_text
from runoff.environment.extras import Requirements, VersionOf

PLUGIN_GROUP = "runoff.backends"
"""The entry-point group by which a third party adds a backend."""


class Library(msgspec.Struct, frozen=True):
    """A library as data.

    Attributes:
        id: the key in `Environment.libraries`; rows of backends name it.
        distributions: the names that bring it, the usual one first.
        import_name: the top-level module.
        extra: the extra of Runoff that adds it.
        cpu_extra: the extra where the CPU is the only device, when that is another one.
        needs_nvidia: it is of no use without an NVIDIA GPU.
        platforms: values of `sys.platform` where it computes; elsewhere it is a tool. Empty means all.
    """

    id: str
    title: str
    distributions: tuple[str, ...]
    import_name: str
    extra: str
    cpu_extra: str | None = None
    needs_nvidia: bool = False
    platforms: tuple[str, ...] = ()

    def computes_on(self, platform: str) -> bool:
        """Whether it can answer for a model at a value of `sys.platform`, and not only convert it."""
        return not self.platforms or platform in self.platforms


LIBRARIES: tuple[Library, ...] = (
    Library("torch", "PyTorch", ("torch",), "torch", "torch", cpu_extra="torch-cpu"),
    Library("transformers", "Hugging Face Transformers", ("transformers",), "transformers", "hf"),
    Library(
        "onnxruntime",
        "ONNX Runtime",
        ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
        "onnxruntime",
        "onnx-cpu",
    ),
    Library("openvino", "OpenVINO", ("openvino",), "openvino", "openvino"),
    Library("ai_edge_litert", "LiteRT", ("ai-edge-litert",), "ai_edge_litert", "litert"),
    Library("mediapipe", "MediaPipe Tasks", ("mediapipe",), "mediapipe", "mediapipe"),
    Library("executorch", "ExecuTorch", ("executorch",), "executorch", "executorch"),
    Library("ncnn", "ncnn", ("ncnn",), "ncnn", "ncnn"),
    Library("iree", "IREE", ("iree-base-runtime",), "iree.runtime", "iree"),
    Library("coremltools", "Core ML Tools", ("coremltools",), "coremltools", "coreml", platforms=("darwin",)),
    Library(
        "tensorrt",
        "TensorRT",
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
        "tensorrt",
        "trt10",
        needs_nvidia=True,
    ),
)
"""Runtimes: a figure measured with one version says nothing of another, so those that compute here are part of the
fingerprint."""

TOOLS: tuple[Library, ...] = (
    Library("onnx", "ONNX", ("onnx",), "onnx", "export"),
    Library("litert_torch", "LiteRT Torch", ("litert-torch",), "litert_torch", "litert-export"),
    Library("ai_edge_quantizer", "AI Edge Quantizer", ("ai-edge-quantizer",), "ai_edge_quantizer", "litert-export"),
    Library("iree_compiler", "IREE compiler", ("iree-base-compiler",), "iree.compiler", "iree"),
    Library("onnxscript", "ONNX Script", ("onnxscript",), "onnxscript", "export"),
    Library("nncf", "NNCF", ("nncf",), "nncf", "quant"),
    Library("safetensors", "Safetensors", ("safetensors",), "safetensors", "torch", cpu_extra="torch-cpu"),
    Library("tokenizers", "Tokenizers", ("tokenizers",), "tokenizers", "hf"),
    Library("huggingface_hub", "Hugging Face Hub", ("huggingface_hub",), "huggingface_hub", "hub"),
    Library(
        "opencv",
        "OpenCV",
        ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
        "cv2",
        "vision",
    ),
)
"""What makes, fetches and prepares, and computes no output of a model."""


class LibraryFacts(msgspec.Struct, frozen=True):
    """What is known of one library here.

    Attributes:
        version: of the installed distribution; None when there is none.
        problem: why it cannot be used though it is installed, or what else it would need; None when all is well.
        install: the command that adds or repairs it; None when there is nothing to do.
        distribution: the installed one.
    """

    title: str
    version: str | None = None
    problem: str | None = None
    install: str | None = None
    distribution: str | None = None

    @property
    def usable(self) -> bool:
        """Whether it is installed and nothing speaks against it."""
        return self.version is not None and self.problem is None


class Plugin(msgspec.Struct, frozen=True):
    """An installed entry point of the group `runoff.backends`; it was not loaded."""

    name: str
    distribution: str
    version: str


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution; None when there is none, or only remains without metadata."""
    try:
        metadata = importlib.metadata.distribution(distribution).metadata
    except (importlib.metadata.PackageNotFoundError, FileNotFoundError):
        return None
    return next(iter(metadata.get_all("Version") or ()), None)


def is_importable(module: str) -> bool:
    """Whether a top-level module can be found; it is not imported.

    A folder without code is no module; a package without an `__init__.py`, such as executorch, has its code below.
    """
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    if spec is None or spec.origin is not None:
        return spec is not None
    places = spec.submodule_search_locations or ()
    return any(next(Path(place).glob("*/__init__.py"), None) is not None for place in places)


def own_requirements(version_of: VersionOf) -> Requirements:
    """Runoff's requirements; none when it runs from a source tree that was never installed."""
    try:
        own = importlib.metadata.distribution("runoff")
    except importlib.metadata.PackageNotFoundError:
        return Requirements((), (), version_of)
    return Requirements(own.requires or (), own.metadata.get_all("Provides-Extra") or (), version_of)


def find_libraries(
    rows: Sequence[Library], requirements: Requirements, version_of: VersionOf, *, devices: Sequence[str]
) -> dict[str, LibraryFacts]:
    """The facts of each library by id.

    Args:
        devices: of this machine: they decide which extra fits, and whether a library can be of use.
    """
    return {row.id: _facts(row, requirements, version_of, devices) for row in rows}


def _facts(row: Library, requirements: Requirements, version_of: VersionOf, devices: Sequence[str]) -> LibraryFacts:
    extra = row.cpu_extra if row.cpu_extra and not set(devices) - {"cpu"} else row.extra
    install = f"pip install 'runoff[{extra}]'"
    has_nvidia = any(device.startswith("cuda") for device in devices)
    useless = "needs an NVIDIA GPU, and none was found" if row.needs_nvidia and not has_nvidia else None
    for distribution in row.distributions:
        version = version_of(distribution)
        if version is None:
            continue
        if not is_importable(row.import_name):
            problem = f"broken: {distribution} {version} is recorded as installed, but its module is not there"
            return LibraryFacts(row.title, version, problem, repair(distribution, version), distribution)
        refused = requirements.refusal(distribution, version)
        return LibraryFacts(row.title, version, refused or useless, install if refused else None, distribution)
    return LibraryFacts(row.title, problem=useless, install=install)


def repair(distribution: str, version: str) -> str | None:
    """The command that installs the same version again; None for a build that the default index may not have."""
    return None if "+" in version else f"pip install --force-reinstall --no-deps {distribution}=={version}"


def rivals(rows: Sequence[Library], version_of: VersionOf) -> list[str]:
    """A sentence for each library that several distributions bring at once: they overwrite each other's files."""
    notes = []
    for row in rows:
        found = [name for name in row.distributions if version_of(name)]
        # TensorRT is no rivalry: `tensorrt` has no files and only requires the one for its CUDA version.
        if len(found) > 1 and row.id != "tensorrt":
            notes.append(f"{' and '.join(found)} share the module {row.import_name}: keep one of them")
    return notes


def installed_plugins() -> tuple[Plugin, ...]:
    """The entry points that add backends, by name; none is loaded."""
    plugins = []
    for point in importlib.metadata.entry_points(group=PLUGIN_GROUP):
        name, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "unknown")
        plugins.append(Plugin(point.name, name, version))
    return tuple(sorted(plugins, key=lambda plugin: plugin.name))


def cuda_toolkit_version(root: Path, version_of: VersionOf) -> str | None:
    """The version of the CUDA runtime that is installed: by pip, else below `root`/usr/local/cuda; None without one."""
    for distribution in ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime-cu11"):
        version = version_of(distribution)
        if version is not None:
            return version
    try:
        return str(json.loads(read_text(root / "usr/local/cuda/version.json"))["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        return None
