"""IREE: `.vmfb` modules, which are machine code for one kind of processor, on the CPU.

A module names none of its inputs and outputs, so the signature lies beside it, and they are matched by order. With one
thread a session computes on the caller's; with more it uses workers, which are one pool for the whole process. A
module is opened only where it was compiled.
"""

from __future__ import annotations

import platform
import threading
from pathlib import Path
from typing import Any

import iree.runtime as rt
import msgspec
import numpy as np
from iree.runtime.version import VERSION

from runoff.backends import table
from runoff.backends.protocol import CheckedSession, Session, SessionOptions, session_closed
from runoff.backends.threads import default_threads
from runoff.environment.hardware import read_cpu
from runoff.errors import FormatMismatch, RuntimeLoadError, RuntimeRunError
from runoff.models.arrays import Array, Arrays, numpy_dtype
from runoff.models.compiled import check_compiled
from runoff.models.folder import Package
from runoff.types import Signature

SIGNATURE_FILE = "signature.json"
ENTRY = "main"
"""What the exporter calls the function of a module."""


class IreeBackend:
    """Opens packages in the format `iree`."""

    def open(self, package: Package, options: SessionOptions) -> Session:
        """Open a package; see `Backend.open`."""
        table.check_session("iree", options)
        own = package.entry.precision
        if options.precision not in (None, "default", own):
            raise RuntimeLoadError(
                f"package {package.id!r} computes in {own}, not in {options.precision}", hint="leave the precision out"
            )
        _check_requirements(package)
        check_compiled(package.main_file)
        if self.read_signature("iree", package.main_file) != package.signature:
            raise RuntimeLoadError(
                f"the module of package {package.id!r} was made for another signature", hint="export it again"
            )
        num_threads = options.num_threads or default_threads()
        device = _WORKERS.device(num_threads)
        try:
            context = rt.SystemContext(config=rt.Config(device=device))
            # Copied, so that a file which is replaced under a session changes nothing.
            module = rt.VmModule.copy_buffer(context.instance, package.main_file.read_bytes())
            context.add_vm_module(module)
            function = context.modules[module.name][ENTRY]
        except Exception as error:
            _WORKERS.give_back(num_threads)
            raise RuntimeLoadError(
                f"IREE cannot load package {package.id!r}: {_finding(error)}", hint="export it again with --force"
            ) from error
        return IreeSession(function, package, num_threads)

    def read_signature(self, format_id: str, path: Path) -> Signature:
        """The signature that lies beside the module, which Runoff writes there."""
        try:
            return msgspec.json.decode((path.parent / SIGNATURE_FILE).read_bytes(), type=Signature)
        except (OSError, msgspec.DecodeError) as error:
            raise FormatMismatch(
                f"{path} does not say what its inputs are called, and there is no {SIGNATURE_FILE} beside it: {error}",
                hint="write the signature there as the manifest has it (docs/manifest.md)",
            ) from error


class IreeSession(CheckedSession):
    """A loaded module; its context has state, so it takes one `run` at a time."""

    def __init__(self, function: Any, package: Package, num_threads: int) -> None:
        facts = {
            "runtime": f"iree {VERSION}",
            "device": "cpu",
            "precision": package.entry.precision.value,
            "threads": num_threads,
        }
        super().__init__(package.signature, facts)
        self.concurrency = "exclusive"
        self._function: Any = function
        self._num_threads = num_threads
        self._lock = threading.Lock()

    def _compute(self, inputs: Arrays) -> dict[str, Array]:
        given = [np.require(inputs[spec.name], numpy_dtype(spec.dtype), ["C", "A"]) for spec in self.signature.inputs]
        with self._lock:
            if self._function is None:
                raise session_closed()
            try:
                answer = self._function(*given)
                arrays = answer if isinstance(answer, (tuple, list)) else (answer,)
                # Copied: what IREE hands out is a view of its own memory.
                found = [np.array(array.to_host()) for array in arrays]
            except Exception as error:
                raise RuntimeRunError(
                    f"IREE failed while computing: {_finding(error)}",
                    hint="the sizes of the inputs may not fit each other; compare them with the signature",
                ) from error
        return dict(zip((spec.name for spec in self.signature.outputs), found, strict=True))

    def _release(self) -> None:
        with self._lock:
            self._function = None
        _WORKERS.give_back(self._num_threads)


class _Workers:
    """The worker threads of the process: as many as the first session with several asks for, until the last closes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._size = 0
        self._sessions = 0

    def device(self, num_threads: int) -> Any:
        """A device that computes on as many threads.

        Raises:
            RuntimeLoadError: open sessions use the pool with another number.
        """
        if num_threads == 1:
            return rt.get_device("local-sync", cache=False)
        with self._lock:
            if self._sessions and self._size != num_threads:
                raise RuntimeLoadError(
                    f"IREE has one pool of threads in a process, and open sessions use it with {self._size}, "
                    f"not {num_threads}",
                    hint="close them first, or ask for one thread",
                )
            rt.flags.parse_flags(f"--task_topology_group_count={num_threads}")
            device = rt.get_device("local-task", cache=False)
            self._size = num_threads
            self._sessions += 1
            return device

    def give_back(self, num_threads: int) -> None:
        """A session with as many threads is gone."""
        if num_threads > 1:
            with self._lock:
                self._sessions -= 1


_WORKERS = _Workers()


def _check_requirements(package: Package) -> None:
    """Refuse machine code of another version, or for a processor that can do more than this one."""
    requires = package.entry.requires
    own = {"iree": iree_version(), "machine": platform.machine()}
    differing = [
        f"{name} {requires[name]}, here it is {found}"
        for name, found in own.items()
        if requires.get(name, found) != found
    ]
    missing = set(requires.get("isa", ())) - set(read_cpu().isa)
    if missing:
        differing.append(f"a processor with {', '.join(sorted(missing))}")
    if differing:
        raise RuntimeLoadError(
            f"package {package.id!r} was compiled for {'; '.join(differing)}",
            hint="compile it again here: runoff export --to iree --force",
        )


def iree_version() -> str:
    """`3.13` of `3.13.0`: what a module asks for."""
    return ".".join(str(VERSION).split(".")[:2])


def _finding(error: Exception) -> str:
    """What IREE says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
