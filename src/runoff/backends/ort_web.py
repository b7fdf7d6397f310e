"""ONNX Runtime Web: the package of a page, run in Node.js as the browser would run it: by WebAssembly on the CPU."""

from __future__ import annotations

from pathlib import Path

from runoff.backends import table
from runoff.backends.node import NodeSession, check_files, package_file, read_config
from runoff.backends.protocol import Session, SessionOptions
from runoff.backends.threads import default_threads
from runoff.environment.javascript import pinned_version
from runoff.errors import FormatMismatch, RuntimeLoadError
from runoff.models.folder import Package
from runoff.types import Signature


class OrtWebBackend:
    """Opens packages in the format `web`."""

    def open(self, package: Package, options: SessionOptions) -> Session:
        """Open a package; see `Backend.open`."""
        table.check_session("ort-web", options)
        own = package.entry.precision
        if options.precision not in (None, "default", own):
            raise RuntimeLoadError(
                f"package {package.id!r} computes in {own}, not in {options.precision}", hint="leave the precision out"
            )
        check_files(package)
        try:
            config = read_config(package.main_file, "ort-web")
        except FormatMismatch as error:
            raise RuntimeLoadError(f"cannot open package {package.id!r}: {error.message}", hint=error.hint) from error
        num_threads = options.num_threads or default_threads()
        opening = {
            "model": package_file(package, config.model),
            "external": [package_file(package, name) for name in config.external],
            "threads": num_threads,
        }
        facts = {
            "runtime": f"onnxruntime-web {pinned_version('ort-web', 'onnxruntime-web')}",
            "device": "cpu",
            "precision": own.value,
            "threads": num_threads,
        }
        return NodeSession(package, "ort-web", opening, facts)

    def read_signature(self, format_id: str, path: Path) -> Signature:
        """The signature in the `page.json` beside the page."""
        return read_config(path, "ort-web").signature
