"""ONNX files, run by onnxruntime."""

from pathlib import Path

import onnxruntime
import torch
from torch import Tensor


def infer(path: Path, inputs: Tensor) -> Tensor:
    """The output for one batch, on one thread of the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"inputs": inputs.numpy()})
    return torch.from_numpy(outputs)
