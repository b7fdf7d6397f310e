"""The execution providers of ONNX Runtime as data: what each drives, what it needs, what brings it, what it takes.

Knows no runtime and no machine. Which of them an installed build has, only ONNX Runtime can tell; a row says what the
provider is, and not that it was ever run.
"""

from __future__ import annotations

import msgspec


class ExecutionProvider(msgspec.Struct, frozen=True):
    """One execution provider.

    Attributes:
        name: as ONNX Runtime calls it.
        devices: the kinds of device that it is chosen for; an empty one is chosen by name only.
        needs: hardware, system and driver.
        brings: the extra of Runoff with a build that has it, else None.
        build: the distribution or build of ONNX Runtime that has it.
        options: its options that matter, with what they do.
        device_option: which option takes the device: an index for `device_id`, `GPU.0` for `device_type`.
        host_memory: whether it reads and writes arrays where they are.
    """

    name: str
    title: str
    vendor: str
    devices: tuple[str, ...]
    needs: str
    build: str
    brings: str | None = None
    options: dict[str, str] = {}
    device_option: str | None = None
    host_memory: bool = False


_CACHE = "folder that engines are kept in: building one takes minutes"

EXECUTION_PROVIDERS: tuple[ExecutionProvider, ...] = (
    ExecutionProvider(
        "CPUExecutionProvider",
        "CPU",
        "any",
        ("cpu",),
        "nothing",
        "every build",
        brings="onnx-cpu",
        host_memory=True,
    ),
    ExecutionProvider(
        "CUDAExecutionProvider",
        "CUDA",
        "NVIDIA",
        ("cuda", "gpu"),
        "an NVIDIA GPU, its driver, CUDA 12 and cuDNN 9",
        "onnxruntime-gpu",
        brings="onnx-cu12",
        options={
            "gpu_mem_limit": "bytes of the arena; default: no limit",
            "cudnn_conv_algo_search": "EXHAUSTIVE (default), HEURISTIC or DEFAULT",
            "use_tf32": "1 (default) lets matrix products round to TF32",
            "enable_cuda_graph": "1 replays a captured graph; shapes must be fixed",
        },
        device_option="device_id",
    ),
    ExecutionProvider(
        "TensorrtExecutionProvider",
        "TensorRT",
        "NVIDIA",
        (),
        "an NVIDIA GPU, its driver, CUDA 12 and TensorRT 10",
        "onnxruntime-gpu",
        brings="onnx-cu12",
        options={
            "trt_fp16_enable": "True computes in fp16",
            "trt_engine_cache_enable": "True keeps engines",
            "trt_engine_cache_path": _CACHE,
            "trt_profile_min_shapes": "with those of opt and max: the ranges of dynamic shapes",
        },
        device_option="device_id",
    ),
    ExecutionProvider(
        "NvTensorRTRTXExecutionProvider",
        "TensorRT RTX",
        "NVIDIA",
        (),
        "a GeForce RTX GPU of the series 20 or newer, and its driver",
        "a build of your own with TensorRT RTX, or Windows ML",
        options={"nv_runtime_cache_path": _CACHE, "enable_cuda_graph": "1 replays a captured graph"},
        device_option="device_id",
    ),
    ExecutionProvider(
        "ROCMExecutionProvider",
        "ROCm",
        "AMD",
        ("gpu",),
        "an AMD GPU and ROCm; newer versions have MIGraphX in its place",
        "onnxruntime-rocm",
        device_option="device_id",
    ),
    ExecutionProvider(
        "MIGraphXExecutionProvider",
        "MIGraphX",
        "AMD",
        ("gpu",),
        "an AMD GPU and ROCm with MIGraphX",
        "onnxruntime-migraphx",
        options={"migraphx_fp16_enable": "1 computes in fp16", "migraphx_int8_enable": "1 computes in int8"},
        device_option="device_id",
    ),
    ExecutionProvider(
        "DmlExecutionProvider",
        "DirectML",
        "any (Windows)",
        ("gpu",),
        "Windows 10 or newer and a GPU with DirectX 12",
        "onnxruntime-directml",
        brings="onnx-directml",
        device_option="device_id",
    ),
    ExecutionProvider(
        "QNNExecutionProvider",
        "Qualcomm AI Engine Direct (QNN)",
        "Qualcomm",
        ("npu",),
        "a Snapdragon with a Hexagon NPU, on Windows on Arm or Android; quantised models",
        "onnxruntime-qnn",
        options={
            "backend_path": "library of the target: QnnHtp for the NPU, QnnCpu for tests",
            "htp_performance_mode": "burst, balanced, ...",
            "enable_htp_fp16_precision": "1 runs fp32 models in fp16",
        },
    ),
    ExecutionProvider(
        "VitisAIExecutionProvider",
        "Vitis AI",
        "AMD",
        ("npu",),
        "a Ryzen AI processor or an adaptive SoC, with AMD's software for it",
        "AMD's Ryzen AI software",
        options={"config_file": "path of the provider's configuration"},
    ),
    ExecutionProvider(
        "OpenVINOExecutionProvider",
        "OpenVINO",
        "Intel",
        ("gpu", "npu"),
        "an Intel processor, GPU or NPU; on the CPU the backend openvino is the direct way",
        "onnxruntime-openvino",
        brings="onnx-openvino",
        options={
            "device_type": "CPU, GPU, NPU or AUTO:GPU,CPU",
            "cache_dir": "folder of compiled models",
            "precision": "FP32, FP16 or ACCURACY",
        },
        device_option="device_type",
    ),
    ExecutionProvider(
        "CoreMLExecutionProvider",
        "Core ML",
        "Apple",
        ("gpu", "npu"),
        "macOS or iOS",
        "onnxruntime for macOS",
        brings="onnx-cpu",
        options={
            "ModelFormat": "MLProgram (macOS 12) or NeuralNetwork (default)",
            "MLComputeUnits": "ALL (default), CPUAndNeuralEngine, CPUAndGPU or CPUOnly",
            "RequireStaticInputShapes": "1 takes only the parts with fixed shapes",
        },
    ),
    ExecutionProvider(
        "NnapiExecutionProvider",
        "NNAPI",
        "Android",
        ("npu",),
        "Android 8.1 or newer; Android 15 has deprecated NNAPI",
        "onnxruntime for Android",
    ),
    ExecutionProvider(
        "WebGpuExecutionProvider",
        "WebGPU",
        "any (browser)",
        ("gpu",),
        "a browser with WebGPU, or a native build with Dawn",
        "onnxruntime-web",
    ),
    ExecutionProvider(
        "XnnpackExecutionProvider",
        "XNNPACK",
        "any (Arm, x86, WebAssembly)",
        (),
        "nothing; made for Arm",
        "onnxruntime for Android and iOS, or a build of your own",
        options={"intra_op_num_threads": "threads of its own pool; set that of the session to 1"},
        host_memory=True,
    ),
    ExecutionProvider(
        "RknpuExecutionProvider",
        "RKNPU",
        "Rockchip",
        (),
        "a board with an RK1808 and its driver; newer chips need Rockchip's own RKNN tools",
        "a build of your own",
    ),
    ExecutionProvider(
        "DnnlExecutionProvider", "oneDNN", "Intel", (), "nothing", "a build of your own", host_memory=True
    ),
    ExecutionProvider(
        "AzureExecutionProvider",
        "Azure endpoints",
        "Microsoft",
        (),
        "an endpoint; it computes nothing here",
        "every desktop build",
        host_memory=True,
    ),
)
"""Of those that drive a kind of device, the first that a build has is taken."""

_BY_NAME = {row.name: row for row in EXECUTION_PROVIDERS}


def find_provider(name: str) -> ExecutionProvider | None:
    """The row of a provider, by the name that ONNX Runtime gives it or by its short one, such as `cuda`."""
    found = _BY_NAME.get(name)
    if found is not None:
        return found
    short = name.lower().removesuffix("executionprovider")
    return next((row for row in EXECUTION_PROVIDERS if row.name.lower() == f"{short}executionprovider"), None)


def providers_for(device_kind: str) -> tuple[ExecutionProvider, ...]:
    """The providers that drive a kind of device, in the order in which they are looked for."""
    return tuple(row for row in EXECUTION_PROVIDERS if device_kind in row.devices)


def how_to_get(rows: tuple[ExecutionProvider, ...]) -> str:
    """One sentence: which builds have one of these providers, and what they need."""
    ways = []
    for row in rows:
        build = f"pip install 'runoff[{row.brings}]'" if row.brings else row.build
        ways.append(f"{row.title}: {build} (needs {row.needs})")
    return "; ".join(ways)
