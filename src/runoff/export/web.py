"""To `web`: a folder with an .onnx model, a page that runs it, and the files of ONNX Runtime Web that it loads.

Runs in the export worker. Knows no plan. The folder needs a static web server and nothing from elsewhere.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from runoff.environment.javascript import installed_packages, pinned_version
from runoff.errors import ExportError, PathEscapes
from runoff.export.onnx import external_files
from runoff.export.pages import MAIN_FILE, check_page, write_page
from runoff.export.step import Made, StepOptions
from runoff.models.folder import Package, resolve

_PACKAGES = "ort-web"
_MODEL = "model.onnx"
_MAX_FILE_BYTES = 2**31 - 2**20
"""What an ArrayBuffer of every browser holds: 2 GiB, less some room."""
_MAX_MODEL_BYTES = 2**32 - 2**30
"""What WebAssembly addresses, 4 GiB, less room for what the model computes."""
_RUNTIME = {
    "ort.wasm.js": "ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.js": "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm": "ort-wasm-simd-threaded.asyncify.wasm",
}


def from_onnx(source: Package, destination: Path, options: StepOptions) -> Made:
    """Put an .onnx model and its page into a folder, and check both in Node.js and in Chromium.

    Raises:
        BackendNotInstalled: Node.js or the pinned packages are missing.
        ExportError: the model is too large for a browser, or does not compute there what the reference does.
    """
    dist = installed_packages(_PACKAGES) / "onnxruntime-web" / "dist"
    version = pinned_version(_PACKAGES, "onnxruntime-web")
    external = _copy_model(source, destination)
    sample = write_page(
        source,
        destination,
        options,
        {name: dist / file for name, file in _RUNTIME.items()},
        runtime=_PACKAGES,
        version=version,
        model=_MODEL,
        external=external,
        providers=("wasm", "webgpu"),
    )
    checked = check_page(destination, source, options, sample)
    return Made(MAIN_FILE, "runoff", {"onnxruntime-web": version}, details={"checked": checked})


def _copy_model(source: Package, destination: Path) -> tuple[str, ...]:
    """Copy the model, and the files of its weights beside it; answers their names."""
    external = external_files(source.main_file)
    if any(Path(name).name != name for name in external):
        raise ExportError(f"{source.id} keeps weights in another folder: {', '.join(external)}")
    folder = source.main_file.parent
    try:
        files = {name: resolve(folder, name) for name in external}
    except PathEscapes as error:
        raise ExportError(error.message) from error
    files[_MODEL] = source.main_file
    sizes = {name: path.stat().st_size for name, path in files.items()}
    largest = max(sizes, key=lambda name: sizes[name])
    total = sum(sizes.values())
    if sizes[largest] > _MAX_FILE_BYTES or total > _MAX_MODEL_BYTES:
        raise ExportError(
            f"{source.id} has {total / 2**30:.1f} GiB, {sizes[largest] / 2**30:.1f} of them in {largest}: a browser "
            "holds less than 2 GiB in one file and 3 GiB in all",
            hint="quantise the model: runoff quantize MODEL --precision int8-static",
        )
    for name, path in files.items():
        shutil.copyfile(path, destination / name)
    return tuple(external)
