"""Model folders around an ONNX graph written node by node: no torch, so that they are made and opened in no time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from fakes.packages import write_onnx
from runoff.models.arrays import write_npz
from runoff.models.folder import ModelFolder, create_folder, describe_file, describe_tree
from runoff.models.manifest import SCHEMA, Batch, Evaluation, Manifest, PackageEntry
from runoff.types import Precision, Signature


def onnx_folder(
    root: Path,
    nodes: Sequence[onnx.NodeProto],
    signature: Signature,
    constants: dict[str, Any] | None = None,
    *,
    batch: Batch = "dynamic",
    evaluation: tuple[dict[str, np.ndarray], np.ndarray] | None = None,
) -> ModelFolder:
    """A model whose reference is the graph at fp32; with labelled rows it is a classifier."""

    def fill(aside: Path) -> Manifest:
        place = aside / "packages" / "onnx-fp32"
        place.mkdir(parents=True)
        write_onnx(place / "model.onnx", nodes, signature, constants)
        entry = PackageEntry("onnx-fp32", "onnx", "onnx", Precision.FP32, describe_tree(aside, place), batch)
        labelled = None
        if evaluation is not None:
            write_npz(aside / "inputs.npz", evaluation[0])
            np.save(aside / "labels.npy", evaluation[1])
            labelled = Evaluation(describe_file(aside, "inputs.npz"), describe_file(aside, "labels.npy"))
        task = None if evaluation is None else "image-classification"
        return Manifest(SCHEMA, "net", "onnx-fp32", signature, (entry,), task, evaluation=labelled)

    return create_folder(root, fill)
