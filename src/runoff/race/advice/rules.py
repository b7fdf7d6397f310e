"""The rules of advice as data: for each kind of hardware the forms to ship, for what, why, and what documents it.

Knows no model, no machine and no figure: what a form costs and gains is measured, or said to be unmeasured. A rule that
comes first is preferred where nothing was measured.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import msgspec

Hardware: TypeAlias = Literal["nvidia", "intel", "amd", "arm", "apple", "android", "browser"]
Sensitivity: TypeAlias = Literal["latency", "throughput", "accuracy", "memory", "size", "cold-start"]
Targets: TypeAlias = Literal["one", "few", "many"]
Kind: TypeAlias = Literal["linear", "convolution"]
"""Where most of a model's weights lie."""

HARDWARE: dict[str, str] = {
    "nvidia": "GPUs of NVIDIA",
    "intel": "CPUs of Intel",
    "amd": "CPUs of AMD",
    "arm": "servers and boards with Arm CPUs",
    "apple": "Macs, iPhones and iPads",
    "android": "phones and tablets with Android",
    "browser": "web pages",
}
SENSITIVITIES: dict[str, str] = {
    "latency": "the answer to one request must come fast",
    "throughput": "many requests must be answered in a second",
    "accuracy": "answers must be those of the original model",
    "memory": "little memory while running",
    "size": "little to download and to store",
    "cold-start": "the first answer must come soon after the start",
}
TARGETS: dict[str, str] = {
    "one": "one kind of machine: a form may be made for it alone",
    "few": "a handful of kinds: a form for each",
    "many": "kinds that are not all known: one form that runs on all, and others where they pay",
}


class Rule(msgspec.Struct, frozen=True):
    """One form to ship.

    Attributes:
        hardware: whom it is for.
        target: the row of `export.targets.TARGETS` by which it runs there.
        form: the word for its format, as `runoff export --to` takes it.
        precision: `fp32`, `fp16`, `int8`, `int4`, or `default` for the runtime's own choice.
        sensitivity: what it is good for.
        why: in a sentence, without a figure.
        source: the page that documents it.
        targets: for how many kinds of target.
        kinds: for which kinds of model.
        device: where it runs there, as a device of Runoff.
    """

    hardware: Hardware
    target: str
    form: str
    precision: str
    sensitivity: tuple[Sensitivity, ...]
    why: str
    source: str
    targets: tuple[Targets, ...] = get_args(Targets)
    kinds: tuple[Kind, ...] = get_args(Kind)
    device: str = "cpu"


_ALL: tuple[Sensitivity, ...] = get_args(Sensitivity)
_FAST: tuple[Sensitivity, ...] = ("latency", "throughput")
_SMALL: tuple[Sensitivity, ...] = ("memory", "size")
_SPECIAL: tuple[Targets, ...] = ("one", "few")

_ORT_PROVIDERS = "https://onnxruntime.ai/docs/execution-providers/"
_ORT_MOBILE = "https://onnxruntime.ai/docs/tutorials/mobile/"
_ORT_INT8 = "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html"
_ORT_WEB = "https://onnxruntime.ai/docs/tutorials/web/"
_TENSORRT = "https://docs.nvidia.com/deeplearning/tensorrt/latest/"
_OPENVINO = (
    "https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/precision-control.html"
)
_OPENVINO_INT8 = "https://docs.openvino.ai/2025/openvino-workflow/model-optimization.html"
_COREML = "https://apple.github.io/coremltools/docs-guides/source/typed-execution.html"
_LITERT = "https://ai.google.dev/edge/litert"
_LITERT_INT8 = "https://ai.google.dev/edge/litert/models/post_training_quantization"
_EXECUTORCH = "https://docs.pytorch.org/executorch/stable/index.html"
_NCNN = "https://github.com/Tencent/ncnn"
_TFJS = "https://www.tensorflow.org/js"

_PORTABLE = "one ONNX file runs on every kind of hardware through ONNX Runtime's execution providers: one form to test"
_PORTABLE_SMALL = "one ONNX file with weights in 8 bits instead of 32 runs wherever ONNX Runtime does"


def _portable(hardware: Hardware, target: str, device: str = "cpu") -> tuple[Rule, ...]:
    """The same file for all: for many targets, and for what it is best at with fewer."""
    wide: tuple[Sensitivity, ...] = (*_FAST, "accuracy", "cold-start")
    return (
        Rule(hardware, target, "onnx", "fp32", wide, _PORTABLE, _ORT_PROVIDERS, ("many",), device=device),
        Rule(hardware, target, "onnx", "int8", _SMALL, _PORTABLE_SMALL, _ORT_INT8, ("many",), device=device),
    )


def _elsewhere(hardware: Hardware) -> Rule:
    """The last resort on phones: for models that no conversion leads to their own formats."""
    why = "ONNX Runtime has a build for it: for models that its own formats cannot be made of"
    return Rule(hardware, "onnx", "onnx", "fp32", _ALL, why, _ORT_MOBILE, _SPECIAL)


RULES: tuple[Rule, ...] = (
    # NVIDIA
    *_portable("nvidia", "cuda", "cuda"),
    Rule(
        "nvidia",
        "tensorrt",
        "trt",
        "fp16",
        (*_FAST, "memory"),
        "TensorRT times kernels for the one GPU that it builds on, and fp16 uses its tensor cores; an engine is good "
        "for that kind of GPU and that version of TensorRT only",
        _TENSORRT,
        device="cuda",
    ),
    Rule(
        "nvidia",
        "tensorrt",
        "trt",
        "fp32",
        ("accuracy",),
        "an engine at fp32 keeps the arithmetic of the original; switch TF32 off where the last digits count",
        _TENSORRT,
        _SPECIAL,
        device="cuda",
    ),
    Rule(
        "nvidia",
        "cuda",
        "onnx",
        "fp16",
        (*_FAST, *_SMALL),
        "half the bytes, tensor cores, and no engine to build: the same file runs on every NVIDIA GPU",
        _ORT_PROVIDERS,
        device="cuda",
    ),
    Rule(
        "nvidia",
        "cuda",
        "onnx",
        "fp32",
        ("accuracy", "cold-start"),
        "nothing is built or tuned at the start, and fp32 is what the original computes in",
        _ORT_PROVIDERS,
        _SPECIAL,
        device="cuda",
    ),
    # Intel
    *_portable("intel", "onnx"),
    Rule(
        "intel",
        "openvino",
        "openvino",
        "int8",
        (*_FAST, *_SMALL),
        "VNNI and AMX multiply in 8 bits, and NNCF quantises weights and activations for them",
        _OPENVINO_INT8,
    ),
    Rule(
        "intel",
        "openvino",
        "openvino",
        "default",
        _FAST,
        "OpenVINO chooses bf16 where the CPU has it, without data and without another file",
        _OPENVINO,
    ),
    Rule(
        "intel",
        "openvino",
        "openvino",
        "int4",
        _SMALL,
        "weights of matrix products in 4 bits: for models whose weights are what is read",
        _OPENVINO_INT8,
        kinds=("linear",),
    ),
    Rule(
        "intel",
        "openvino",
        "openvino",
        "fp32",
        ("accuracy", *_FAST),
        "compiled for Intel's CPUs; it computes in fp32 only where that is asked for, as this form does",
        _OPENVINO,
    ),
    Rule(
        "intel",
        "onnx",
        "onnx",
        "fp32",
        ("cold-start",),
        "the base installation is enough, and nothing is compiled when it opens",
        _ORT_PROVIDERS,
        _SPECIAL,
    ),
    Rule("intel", "onnx", "onnx", "int8", ("cold-start",), "less to read when it opens", _ORT_INT8),
    # AMD
    *_portable("amd", "onnx"),
    Rule(
        "amd",
        "onnx",
        "onnx",
        "int8",
        (*_FAST, *_SMALL),
        "CPUs with VNNI multiply in 8 bits, and weights take 8 bits instead of 32",
        _ORT_INT8,
        _SPECIAL,
    ),
    Rule(
        "amd",
        "openvino",
        "openvino",
        "fp32",
        _FAST,
        "OpenVINO runs on any x86 CPU; a race decides between it and ONNX Runtime",
        _OPENVINO,
    ),
    Rule(
        "amd",
        "onnx",
        "onnx",
        "fp32",
        ("accuracy", "cold-start", *_FAST),
        "the base installation is enough, and fp32 is what the original computes in",
        _ORT_PROVIDERS,
        _SPECIAL,
    ),
    # Arm
    *_portable("arm", "onnx"),
    Rule(
        "arm",
        "litert",
        "litert",
        "int8",
        (*_FAST, *_SMALL),
        "XNNPACK multiplies in 8 bits where the CPU has dot products; weights in 8 bits need no data",
        _LITERT_INT8,
        kinds=("linear",),
    ),
    Rule(
        "arm",
        "onnx",
        "onnx",
        "int8",
        (*_FAST, *_SMALL),
        "static ranges let convolutions run in 8 bits from end to end",
        _ORT_INT8,
        _SPECIAL,
        kinds=("convolution",),
    ),
    Rule(
        "arm",
        "onnx",
        "onnx",
        "fp32",
        _ALL,
        "runs as it is on every 64-bit Arm CPU",
        _ORT_PROVIDERS,
        _SPECIAL,
    ),
    Rule("arm", "ncnn", "ncnn", "fp32", _FAST, "written for Arm's vector units", _NCNN, kinds=("convolution",)),
    # Apple
    *_portable("apple", "onnx"),
    Rule(
        "apple",
        "coreml",
        "coreml",
        "fp16",
        (*_FAST, *_SMALL),
        "only Core ML reaches the Neural Engine, which computes in fp16",
        _COREML,
        device="npu",
    ),
    Rule(
        "apple",
        "coreml",
        "coreml",
        "fp32",
        ("accuracy", "cold-start"),
        "a program at fp32 runs on CPU and GPU and keeps the arithmetic of the original",
        _COREML,
        device="gpu",
    ),
    Rule(
        "apple",
        "executorch",
        "executorch",
        "fp32",
        _ALL,
        "one program for iOS and Android, made from PyTorch directly",
        _EXECUTORCH,
    ),
    _elsewhere("apple"),
    # Android
    *_portable("android", "onnx"),
    Rule(
        "android",
        "litert",
        "litert",
        "int8",
        (*_FAST, *_SMALL),
        "the runtime that Android's own tools take; weights in 8 bits need no data",
        _LITERT_INT8,
        kinds=("linear",),
    ),
    Rule(
        "android",
        "litert",
        "litert",
        "fp32",
        _ALL,
        "the runtime that Android's own tools take, with XNNPACK on the CPU and delegates for other processors",
        _LITERT,
    ),
    Rule(
        "android",
        "executorch",
        "executorch",
        "int8",
        (*_FAST, *_SMALL),
        "made from PyTorch directly; its linear layers run in 8 bits on XNNPACK",
        _EXECUTORCH,
        kinds=("linear",),
    ),
    Rule(
        "android",
        "executorch",
        "executorch",
        "fp32",
        ("accuracy",),
        "made from PyTorch directly",
        _EXECUTORCH,
        _SPECIAL,
    ),
    Rule(
        "android",
        "ncnn",
        "ncnn",
        "fp32",
        (*_FAST, "cold-start"),
        "a small library written for phones",
        _NCNN,
        kinds=("convolution",),
    ),
    _elsewhere("android"),
    # Browsers
    Rule(
        "browser",
        "ort-web",
        "onnx",
        "int8",
        ("latency", *_SMALL, "cold-start"),
        "a page downloads the model before its first answer, so bytes are time",
        _ORT_WEB,
    ),
    Rule(
        "browser",
        "ort-web",
        "web",
        "fp32",
        _ALL,
        "ONNX Runtime Web takes the ONNX file as it is, on WebAssembly or WebGPU",
        _ORT_WEB,
        device="browser",
    ),
    Rule(
        "browser",
        "tfjs",
        "tfjs",
        "fp32",
        _ALL,
        "for pages that run TensorFlow.js already",
        _TFJS,
        device="browser",
    ),
)
