"""ONNX files, run by onnxruntime."""

from pathlib import Path

import onnxruntime
import torch
from torch import Tensor


def infer_all(path: Path, inputs: Tensor) -> list[Tensor]:
    """Return all outputs for one batch, on one thread of the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(outputs) for outputs in session.run(None, {"inputs": inputs.numpy()})]


def infer(path: Path, inputs: Tensor) -> Tensor:
    """Return the only output for one batch."""
    (outputs,) = infer_all(path, inputs)
    return outputs
