"""The check of PyTorch programs: what is in the file must compute what the network computes."""

import io

import torch
from torch import Tensor, nn

from spl.errors import InputError, first_line
from spl.export.comparison import difference_of_outputs


def check_program(data: bytes, network: nn.Module, example_input: Tensor) -> None:
    """Refuse a program whose outputs are not those of the network, for two batches of random inputs.

    Args:
        data: the contents of a `.pt2` file.
        network: the network that the program was made from, in evaluation mode.
        example_input: one batch of inputs; the random ones resemble it.

    Raises:
        InputError: the outputs differ by more than rounding explains, or the program cannot be loaded or run.
    """
    name = type(network).__name__
    outputs = difference_of_outputs(network, example_input, lambda batches: _run(data, name, batches))
    if outputs:
        raise InputError(
            f"The program of {name} would compute something else than the network: {outputs} Nothing was written. Its "
            "forward does something that torch.export does not see, such as reading a global variable, random numbers "
            "or another state than its parameters and buffers: change it, or export only its weights: --to sparse."
        )


def _run(data: bytes, name: str, batches: list[Tensor]) -> list[object]:
    """Return the outputs of the program for each batch."""
    try:
        program = torch.export.load(io.BytesIO(data)).module()
        return [program(inputs) for inputs in batches]
    except Exception as error:
        raise InputError(
            f"The program of {name} cannot be loaded and run: {first_line(error)} Nothing was written. Export only "
            "its weights: --to sparse."
        ) from error
