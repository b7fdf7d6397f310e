"""ncnn: `.param` and `.bin` files, one sample at a time on the CPU.

A network of ncnn has no batch: a batch is run row by row. It also has no shapes and no names but its own, so the
signature lies beside it, and inputs and outputs are matched by order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import ncnn
import numpy as np

from runoff.backends import table
from runoff.backends.protocol import CheckedSession, Session, SessionOptions, session_closed
from runoff.backends.threads import default_threads
from runoff.errors import FormatMismatch, RuntimeLoadError, RuntimeRunError
from runoff.models.arrays import Array, Arrays, numpy_dtype
from runoff.models.folder import Package
from runoff.types import DType, Signature

SIGNATURE_FILE = "signature.json"
_INTEGERS = (DType.INT64, DType.INT32)
_NARROW = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage")
"""On by default where the processor has 16-bit arithmetic: then an fp32 network would silently not compute in fp32."""


class NcnnBackend:
    """Opens packages in the format `ncnn`."""

    def open(self, package: Package, options: SessionOptions) -> Session:
        """Open a package; see `Backend.open`."""
        table.check_session("ncnn", options)
        own = package.entry.precision
        if options.precision not in (None, "default", own):
            raise RuntimeLoadError(
                f"package {package.id!r} computes in {own}, not in {options.precision}", hint="leave the precision out"
            )
        net = ncnn.Net()
        num_threads = options.num_threads or default_threads()
        net.opt.num_threads = num_threads
        for name in _NARROW:
            setattr(net.opt, name, False)
        path = package.main_file
        weights = path.with_suffix(".bin")
        if net.load_param(str(path)) != 0:
            raise _unreadable(path, package)
        if net.load_model(str(weights)) != 0:
            raise _unreadable(weights, package)
        self._check_signature(package)
        return NcnnSession(net, package, num_threads)

    def _check_signature(self, package: Package) -> None:
        """Hold the signature beside the network, where there is one, against that of the package."""
        if not (package.main_file.parent / SIGNATURE_FILE).is_file():
            return
        try:
            own = self.read_signature("ncnn", package.main_file)
        except FormatMismatch as error:
            raise RuntimeLoadError(f"cannot open package {package.id!r}: {error.message}", hint=error.hint) from error
        if own != package.signature:
            raise RuntimeLoadError(
                f"the network of package {package.id!r} was made for another signature", hint="export it again"
            )

    def read_signature(self, format_id: str, path: Path) -> Signature:
        """The signature that lies beside the network, which Runoff writes there."""
        try:
            return msgspec.json.decode((path.parent / SIGNATURE_FILE).read_bytes(), type=Signature)
        except (OSError, msgspec.DecodeError) as error:
            raise FormatMismatch(
                f"{path} does not say which shapes it takes, and there is no {SIGNATURE_FILE} beside it: {error}",
                hint="write the signature there as the manifest has it (docs/manifest.md)",
            ) from error


class NcnnSession(CheckedSession):
    """A network; each row is an extractor of its own, so `run` may be called from several threads."""

    def __init__(self, net: Any, package: Package, num_threads: int) -> None:
        facts = {
            "runtime": f"ncnn {ncnn.__version__}",
            "device": "cpu",
            "precision": package.entry.precision.value,
            "threads": num_threads,
        }
        super().__init__(package.signature, facts)
        self._net: Any = net
        self._feeds = [
            (f"in{i}", spec.name, np.dtype(np.int32) if spec.dtype in _INTEGERS else numpy_dtype(spec.dtype))
            for i, spec in enumerate(package.signature.inputs)
        ]
        self._fetches = [(f"out{i}", spec) for i, spec in enumerate(package.signature.outputs)]
        found = (set(net.input_names()), set(net.output_names()))
        if not found[0] <= {name for name, _, _ in self._feeds} or not found[1] >= {name for name, _ in self._fetches}:
            raise RuntimeLoadError(
                f"the network of package {package.id!r} has inputs {sorted(found[0])} and outputs {sorted(found[1])}, "
                f"its signature {len(self._feeds)} and {len(self._fetches)}",
                hint="export it again",
            )
        self._used = found[0]

    def _compute(self, inputs: Arrays) -> dict[str, Array]:
        net = self._net
        if net is None:
            raise session_closed()
        counts = {len(array) for array in inputs.values()}
        if len(counts) != 1:
            raise RuntimeRunError(f"the inputs have {sorted(counts)} rows, and ncnn runs row by row")
        prepared = {
            blob: np.require(inputs[name], dtype, ["C", "A"]) for blob, name, dtype in self._feeds if blob in self._used
        }
        rows = [self._row(net, {blob: array[i] for blob, array in prepared.items()}) for i in range(counts.pop())]
        return {
            spec.name: np.stack([row[blob] for row in rows]) if rows else np.empty((0,), numpy_dtype(spec.dtype))
            for blob, spec in self._fetches
        }

    def _row(self, net: Any, feed: dict[str, Array]) -> dict[str, Array]:
        extractor = net.create_extractor()
        for blob, given in feed.items():
            # A Mat borrows the array without holding it, and a layer that works in place crashes on borrowed memory.
            array = np.array(given, ndmin=1)
            extractor.input(blob, ncnn.Mat(array).clone())
        found = {}
        for blob, spec in self._fetches:
            code, out = extractor.extract(blob)
            if code != 0:
                raise RuntimeRunError(
                    f"ncnn failed while computing {spec.name!r} (code {code})",
                    hint="there may not be enough memory, or the inputs do not fit the network",
                )
            array = np.array(out)
            shape = [dim for dim in spec.shape[1:] if isinstance(dim, int)]
            found[blob] = array.reshape(shape) if len(shape) == len(spec.shape) - 1 else array
        return found

    def _release(self) -> None:
        self._net = None


def _unreadable(path: Path, package: Package) -> RuntimeLoadError:
    return RuntimeLoadError(
        f"ncnn {ncnn.__version__} cannot read {path.name} of package {package.id!r}",
        hint="check the files with `runoff verify`, or export them again",
    )
