"""The check of ONNX models: onnxruntime must compute what the network computes."""

import warnings
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from spl.errors import InputError, first_line
from spl.export.comparison import difference_of_outputs


def check_onnx(model: bytes, network: nn.Module, example_input: Tensor) -> None:
    """Refuse a model whose outputs in onnxruntime are not those of the network, for two batches of random inputs.

    Where onnxruntime is not installed, a warning says that nothing was compared.

    Args:
        model: the contents of an ONNX file with one input.
        network: the network that the model was made from, in evaluation mode.
        example_input: one batch of inputs; the random ones resemble it.

    Raises:
        InputError: the outputs differ by more than rounding explains, or onnxruntime cannot run the model.
    """
    name = type(network).__name__
    if find_spec("onnxruntime") is None:
        warnings.warn(
            f"onnxruntime is not installed, so the ONNX file of {name} was not compared with the network: install "
            "it, and export again.",
            stacklevel=3,
        )
        return
    outputs = difference_of_outputs(network, example_input, lambda batches: _run(model, name, batches))
    if outputs:
        raise InputError(
            f"The ONNX file of {name} would compute something else in onnxruntime: {outputs} Nothing was written. "
            "Export the network as a PyTorch program: --to dense or compact."
        )


def _run(model: bytes, name: str, batches: list[Tensor]) -> list[list[Tensor]]:
    try:
        return _onnx_outputs(model, batches)
    except Exception as error:
        raise InputError(
            f"onnxruntime cannot run the ONNX file of {name}: {first_line(error)} Nothing was written. Export the "
            "network as a PyTorch program: --to dense or compact."
        ) from error


def _onnx_outputs(model: bytes, batches: list[Tensor]) -> list[list[Tensor]]:
    """Return the outputs of the model for each batch, computed on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3  # only errors, which are raised as well
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    outputs = [session.run(None, {given.name: inputs.numpy(force=True)}) for inputs in batches]
    return [[torch.as_tensor(array) for array in arrays] for arrays in outputs]
