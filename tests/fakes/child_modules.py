"""A child process with a handler for each way to behave and to fail; run by `Child("fakes.child_modules")`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from runoff.child import serve
from runoff.errors import RuntimeLoadError

_kept: list[Any] = []


def echo(**arguments: Any) -> Mapping[str, Any]:
    return arguments


def pid() -> Mapping[str, Any]:
    return {"pid": os.getpid()}


def die(number: int) -> Mapping[str, Any]:
    os.kill(os.getpid(), number)
    return {}


def leave(code: int, words: str) -> Mapping[str, Any]:
    sys.stderr.write(f"something before\n{words}\n")
    sys.stderr.flush()
    os._exit(code)


def sleep(seconds: float) -> Mapping[str, Any]:
    time.sleep(seconds)
    return {"slept": seconds}


def hoard(block_bytes: int, blocks: int) -> Mapping[str, Any]:
    """Keep blocks of memory that are really there, slowly enough for a watcher."""
    for _ in range(blocks):
        _kept.append(np.ones(block_bytes, np.uint8))
        time.sleep(0.03)
    return {"bytes": block_bytes * blocks}


def noise(size: int) -> Mapping[str, Any]:
    """Write to standard output in every way that a library has."""
    print("printed by Python")
    sys.stdout.flush()
    os.write(1, b'{"result": {"forged": true}}\n')
    os.write(1, b"x" * size)
    subprocess.run([sys.executable, "-c", "print('printed by a child')"], check=True)
    return {"quiet": True}


def fail(kind: str) -> Mapping[str, Any]:
    if kind == "own":
        raise RuntimeLoadError("the runtime refused", hint="use another one")
    if kind == "memory":
        raise MemoryError
    raise KeyError(kind)


def start_grandchild() -> Mapping[str, Any]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    _kept.append(process)
    return {"pid": process.pid}


def fork() -> Mapping[str, Any]:
    """Fork as `multiprocessing` does, without a new program."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    return {"pid": pid}


def variable(name: str) -> Mapping[str, Any]:
    return {"value": os.environ.get(name)}  # noqa: TID251


def interrupt() -> Mapping[str, Any]:
    os.kill(os.getpid(), signal.SIGINT)
    return {"alive": True}


if __name__ == "__main__":
    serve(
        {
            "echo": echo,
            "pid": pid,
            "die": die,
            "leave": leave,
            "sleep": sleep,
            "hoard": hoard,
            "noise": noise,
            "fail": fail,
            "start_grandchild": start_grandchild,
            "fork": fork,
            "variable": variable,
            "interrupt": interrupt,
        }
    )
