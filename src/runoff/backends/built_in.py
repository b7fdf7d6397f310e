"""The backends that come with Runoff, and the other names that the field has for them. Data only.

Rows stand in the documented order of preference, which ranks packages only while nothing was measured.
"""

from __future__ import annotations

from runoff.backends.row import BackendRow, Option, Variant
from runoff.types import Precision

_ALL_FLOAT = (Precision.FP32, Precision.BF16, Precision.FP16)
_MODULES = ("torch-export", "safetensors")
"""Forms of PyTorch that open as a module, which can still be compiled or moved to another precision."""

BUILT_IN: tuple[BackendRow, ...] = (
    BackendRow(
        id="trt",
        title="TensorRT",
        library="tensorrt",
        formats=("trt",),
        devices=("cuda",),
        precisions=(Precision.FP32, Precision.FP16, Precision.INT8),
        target="runoff.backends.trt:TrtBackend",
        extra="trt10",
        options={"cuda_graph": Option("bool", "record a CUDA graph for each shape, then replay it; default False")},
        variants=(Variant(""), Variant("graph", options={"cuda_graph": True})),
        notes="an engine runs on the version of TensorRT and the kind of GPU that it was built for; never run by us",
        platforms=("linux", "win32"),
        fits="runoff.backends.engine:why_not",
    ),
    BackendRow(
        id="torch",
        title="PyTorch",
        library="torch",
        formats=(*_MODULES, "aoti", "torchscript"),
        devices=("cpu", "cuda", "mps"),
        precisions=(*_ALL_FLOAT, Precision.INT8),
        target="runoff.backends.torch:TorchBackend",
        extra="torch",
        options={
            "compile": Option("bool", "run through torch.compile; the first run of each shape compiles; default False"),
            "compile_mode": Option(
                "str",
                "mode of torch.compile",
                ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
            ),
            "freeze": Option("bool", "fold weights into the compiled code (inductor freezing); default True"),
            "cuda_graph": Option("bool", "on CUDA: record a graph for each shape, then replay it; default False"),
        },
        variants=(
            Variant(""),
            Variant("compile", options={"compile": True}, formats=_MODULES),
            Variant("bf16", Precision.BF16, formats=_MODULES),
            Variant("compile-bf16", Precision.BF16, {"compile": True}, formats=_MODULES),
            Variant("graph", options={"cuda_graph": True}, formats=("torch-export",), devices=("cuda",)),
        ),
    ),
    BackendRow(
        id="hf",
        title="Hugging Face Transformers",
        library="transformers",
        formats=("hf",),
        devices=("cpu", "cuda", "mps"),
        precisions=_ALL_FLOAT,
        target="runoff.backends.hf:HfBackend",
        extra="hf",
        options={
            "attn_implementation": Option(
                "str", "attention of Transformers; default: its own choice", ("eager", "sdpa")
            ),
        },
        variants=(Variant(""), Variant("bf16", Precision.BF16)),
    ),
    BackendRow(
        id="onnx",
        title="ONNX Runtime",
        library="onnxruntime",
        formats=("onnx", "onnx-fused"),
        devices=("cpu", "cuda", "gpu", "npu"),
        precisions=(*_ALL_FLOAT, Precision.INT8, Precision.INT4),
        target="runoff.backends.onnx:OnnxBackend",
        extra="onnx-cpu",
        options={
            "providers": Option("list", "execution providers in order: names, or (name, {option: value}) pairs"),
            "graph_optimization": Option(
                "str", "graph optimization level; default all", ("off", "basic", "extended", "all")
            ),
            "inter_op_num_threads": Option("int", "threads across independent nodes; default 1 (sequential)"),
            "allow_spinning": Option("bool", "worker threads spin between operators; default True"),
            "io_binding": Option("bool", "bind inputs and outputs; default: only off the CPU and for bf16"),
        },
    ),
    BackendRow(
        id="openvino",
        title="OpenVINO",
        library="openvino",
        formats=("openvino", "onnx"),
        devices=("cpu", "gpu", "npu"),
        precisions=(*_ALL_FLOAT, Precision.INT8, Precision.INT4),
        target="runoff.backends.openvino:OpenVinoBackend",
        extra="openvino",
        options={
            "performance_hint": Option("str", "default latency", ("latency", "throughput", "undefined")),
            "num_streams": Option("int", "parallel inference streams; default 1"),
            "cache_dir": Option("str", "folder for compiled models; default: none"),
        },
        variants=(Variant(""), Variant("default", "default", lowers_rest=True)),
    ),
    BackendRow(
        id="litert",
        title="LiteRT",
        library="ai_edge_litert",
        formats=("litert",),
        devices=("cpu",),
        precisions=(Precision.FP32, Precision.INT8),
        target="runoff.backends.litert:LiteRtBackend",
        extra="litert",
        options={
            "delegate": Option("str", "shared library of a delegate, such as libedgetpu.so.1; default: none"),
            "delegate_options": Option("dict", "options of the delegate, text by name, such as {'device': 'usb'}"),
        },
        static_batch=True,
        notes="XNNPACK computes what no other delegate takes.",
    ),
    BackendRow(
        id="mediapipe",
        title="MediaPipe Tasks",
        library="mediapipe",
        formats=("mediapipe",),
        devices=("cpu",),
        precisions=(Precision.FP32, Precision.FP16, Precision.INT8),
        target="runoff.backends.mediapipe:MediaPipeBackend",
        extra="mediapipe",
        options={
            "score_threshold": Option("float", "detectors and landmarkers: least score; default: MediaPipe's own"),
            "max_results": Option("int", "detectors and landmarkers: most results for one image; default: MediaPipe's"),
        },
        notes="runs a batch row by row, on one thread",
    ),
    BackendRow(
        id="executorch",
        title="ExecuTorch",
        library="executorch",
        formats=("executorch",),
        devices=("cpu",),
        precisions=(Precision.FP32, Precision.INT8),
        target="runoff.backends.executorch:ExecuTorchBackend",
        extra="executorch",
        static_batch=True,
        notes="XNNPACK; the number of threads belongs to the process, not to the session.",
        one_run="its sessions share the thread pool of the process and run one after the other",
    ),
    BackendRow(
        id="ncnn",
        title="ncnn",
        library="ncnn",
        formats=("ncnn",),
        devices=("cpu",),
        precisions=(Precision.FP32,),
        target="runoff.backends.ncnn:NcnnBackend",
        extra="ncnn",
        notes="runs a batch row by row",
    ),
    BackendRow(
        id="iree",
        title="IREE",
        library="iree",
        formats=("iree",),
        devices=("cpu",),
        precisions=(Precision.FP32,),
        target="runoff.backends.iree:IreeBackend",
        extra="iree",
        notes="machine code; several times slower than others here, so raced only when it is named",
        opt_in=True,
    ),
    BackendRow(
        id="coreml",
        title="Core ML",
        library="coremltools",
        formats=("mlpackage",),
        devices=("cpu", "gpu", "npu"),
        precisions=(Precision.FP32, Precision.FP16),
        target="runoff.backends.coreml:CoreMlBackend",
        extra="coreml",
        options={
            "compute_units": Option(
                "str", "what Core ML may use; default all", ("all", "cpu", "cpu-and-gpu", "cpu-and-npu")
            ),
        },
        notes="predicts on macOS only; converts on Linux",
        platforms=("darwin",),
        check="runoff.export.coreml:check_package",
    ),
    BackendRow(
        id="ort-web",
        title="ONNX Runtime Web",
        library=None,
        formats=("web",),
        devices=("cpu",),
        precisions=(Precision.FP32, Precision.INT8),
        target="runoff.backends.ort_web:OrtWebBackend",
        opt_in=True,
        notes="for browsers; runs here in Node.js, by WebAssembly",
    ),
    BackendRow(
        id="tfjs",
        title="TensorFlow.js",
        library=None,
        formats=("tfjs",),
        devices=("cpu",),
        precisions=(Precision.FP32,),
        target="runoff.backends.tfjs:TfjsBackend",
        opt_in=True,
        notes="for browsers; runs here in Node.js, by WebAssembly, on one thread",
    ),
)

ALIASES = {
    "pytorch": "torch",
    "huggingface": "hf",
    "hugging-face": "hf",
    "transformers": "hf",
    "onnxruntime": "onnx",
    "ort": "onnx",
    "ov": "openvino",
    "tensorrt": "trt",
    "tflite": "litert",
    "ai-edge-litert": "litert",
    "onnxruntime-web": "ort-web",
    "tensorflow.js": "tfjs",
}
