"""TensorFlow.js: the package of a page, run in Node.js as the browser would run it: by WebAssembly on the CPU.

The library has no 64-bit integers: inputs are narrowed and refused where a number does not fit, outputs are widened.
"""

from __future__ import annotations

from pathlib import Path

from runoff.backends import table
from runoff.backends.node import NodeSession, check_files, package_file, read_config
from runoff.backends.protocol import Session, SessionOptions
from runoff.environment.javascript import pinned_version
from runoff.errors import FormatMismatch, RuntimeLoadError
from runoff.models.folder import Package
from runoff.types import Signature


class TfjsBackend:
    """Opens packages in the format `tfjs`."""

    def open(self, package: Package, options: SessionOptions) -> Session:
        """Open a package; see `Backend.open`."""
        table.check_session("tfjs", options)
        own = package.entry.precision
        if options.precision not in (None, "default", own):
            raise RuntimeLoadError(
                f"package {package.id!r} computes in {own}, not in {options.precision}", hint="leave the precision out"
            )
        if options.num_threads not in (None, 1):
            raise RuntimeLoadError(
                f"TensorFlow.js has one thread in Node.js, {options.num_threads} were asked for",
                hint="leave the number of threads out",
            )
        check_files(package)
        try:
            config = read_config(package.main_file, "tfjs")
        except FormatMismatch as error:
            raise RuntimeLoadError(f"cannot open package {package.id!r}: {error.message}", hint=error.hint) from error
        opening = {
            "model": package_file(package, config.model),
            "external": [package_file(package, name) for name in config.external],
            "dtypes": {spec.name: spec.dtype.value for spec in package.signature.outputs},
        }
        facts = {
            "runtime": f"tfjs {pinned_version('tfjs', '@tensorflow/tfjs-core')}",
            "device": "cpu",
            "precision": own.value,
            "threads": 1,
        }
        return NodeSession(package, "tfjs", opening, facts)

    def read_signature(self, format_id: str, path: Path) -> Signature:
        """The signature in the `page.json` beside the page."""
        return read_config(path, "tfjs").signature
