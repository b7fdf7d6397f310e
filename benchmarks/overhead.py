"""What Runoff adds: to one call of a tiny model, to an import, and to a look at the machine.

    python benchmarks/overhead.py [--json]

The peer is the bare `onnxruntime.InferenceSession.run` on the same file with the same options and inputs, in the
same process, in alternating blocks, so that both see the same machine. Targets: at most 10 µs more a call,
`import runoff` under 150 ms, `runoff env` under 0.5 s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from runoff import AutoModel

BLOCKS = 60
CALLS = 500
TARGET_CALL_US = 10.0
TARGET_IMPORT_MS = 150.0
TARGET_ENV_S = 0.5


def make_model(path: Path) -> None:
    """Write a linear layer of 16 by 4 as ONNX: the runtime's own call costs a few microseconds."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((16, 4), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)


def call_us(call: Callable[[], Any]) -> float:
    """Microseconds of one call, averaged over a block."""
    started = time.perf_counter_ns()
    for _ in range(CALLS):
        call()
    return (time.perf_counter_ns() - started) / CALLS / 1000


def measure_calls() -> dict[str, float]:
    """Medians over the blocks of the bare session, of the model, and of their difference block by block."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.onnx"
        make_model(path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        bare = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        inputs = {"x": np.random.default_rng(1).standard_normal((1, 16), dtype=np.float32)}
        with AutoModel.from_pretrained(path, backend="onnx", num_threads=1) as model:
            np.testing.assert_array_equal(model.run(inputs)["y"], bare.run(None, inputs)[0])
            pairs = [
                (call_us(lambda: bare.run(None, inputs)), call_us(lambda: model.run(inputs))) for _ in range(BLOCKS)
            ]
    added = [ours - theirs for theirs, ours in pairs[5:]]
    quarters = statistics.quantiles(added, n=4)
    return {
        "bare_us": statistics.median(theirs for theirs, _ in pairs[5:]),
        "runoff_us": statistics.median(ours for _, ours in pairs[5:]),
        "added_us": statistics.median(added),
        "added_q1_us": quarters[0],
        "added_q3_us": quarters[2],
    }


def measure_command_s(arguments: list[str], repeats: int = 7) -> float:
    """Median wall seconds of a command, the interpreter's start included."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measure_import_ms() -> float:
    """Median of `import runoff` in fresh interpreters, the interpreter's own start taken off."""
    code = "import time; t = time.perf_counter(); import runoff; print((time.perf_counter() - t) * 1000)"
    return statistics.median(
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
        for _ in range(7)
    )


def main() -> int:
    """Measure, print, and say which targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    figures = measure_calls()
    figures["import_ms"] = measure_import_ms()
    figures["env_s"] = measure_command_s([str(Path(sys.executable).with_name("runoff")), "env"])
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        print(f"bare session.run   {figures['bare_us']:8.2f} us")
        print(f"model.run          {figures['runoff_us']:8.2f} us")
        quartiles = f"quartiles {figures['added_q1_us']:.2f} to {figures['added_q3_us']:.2f}"
        print(f"added per call     {figures['added_us']:8.2f} us  ({quartiles}; target {TARGET_CALL_US:g})")
        print(f"import runoff      {figures['import_ms']:8.1f} ms  (target {TARGET_IMPORT_MS:g})")
        print(f"runoff env         {figures['env_s']:8.3f} s   (target {TARGET_ENV_S:g})")
    met = (
        figures["added_us"] <= TARGET_CALL_US
        and figures["import_ms"] <= TARGET_IMPORT_MS
        and figures["env_s"] <= TARGET_ENV_S
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
