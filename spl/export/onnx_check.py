"""The check of ONNX models: onnxruntime must compute what the network computes."""

import warnings
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from spl.errors import InputError, first_line
from spl.export.comparison import relative_difference, tolerance

_TOLERANCE = 1e-4  # relative to the largest output; rounding errors are far below
_BATCHES = (1, 3)  # exporters treat a batch of one as a special case


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
    batches = [random_inputs(example_input, count) for count in _BATCHES]
    try:
        computed = _onnx_outputs(model, batches)
    except Exception as error:
        raise InputError(
            f"onnxruntime cannot run the ONNX file of {name}: {first_line(error)} Nothing was written. Export the "
            "network as a PyTorch program: --to dense or compact."
        ) from error
    for inputs, outputs in zip(batches, computed, strict=True):
        with torch.no_grad():
            expected = network(inputs)
        difference, most = relative_difference(outputs, expected), tolerance(network, expected, _TOLERANCE)
        if not difference <= most:
            raise InputError(
                f"The ONNX file of {name} would compute something else in onnxruntime: for a batch of {len(inputs)}, "
                f"outputs differ by {difference:.2g} relative to the largest one, and rounding explains {most:.2g}. "
                "Nothing was written. Export the network as a PyTorch program: --to dense or compact."
            )


def random_inputs(example: Tensor, count: int) -> Tensor:
    """Return `count` random inputs that resemble those of the example, the same ones at each call.

    Floating-point numbers lie between 0 and a number of the example at the same place. If the example is all zeros,
    they are normally distributed. Other numbers, such as tokens, are drawn from the example at the same place.

    Args:
        example: one batch of inputs that the network takes.
        count: number of inputs.

    Example:
        >>> import torch
        >>> from spl.export.onnx_check import random_inputs
        >>> random_inputs(torch.tensor([[3, 8], [3, 9]]), 4).shape
        torch.Size([4, 2])
    """
    generator = torch.Generator().manual_seed(0)
    sizes = (count, *example.shape[1:])
    if not example.is_floating_point():
        return example.gather(0, torch.randint(len(example), sizes, generator=generator).to(example.device))
    if not bool(example.any()):
        return torch.randn(sizes, generator=generator).to(example)
    rows = torch.arange(count, device=example.device) % len(example)
    return example[rows] * torch.rand(sizes, generator=generator).to(example)


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
