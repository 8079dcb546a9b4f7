"""Networks as programs that PyTorch runs without the code that they were written in."""

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from spl.errors import InputError
from spl.files import write_whole


def save_program(path: str | Path, network: nn.Module, example_input: Tensor) -> None:
    """Write a `.pt2` file, of which `torch.export.load(path).module()` is the network, for batches of any size.

    With layers on CSR kernels, which are an operator of this package, `import spl.export` comes before.

    Args:
        path: where to; the file is written whole or not at all.
        network: in evaluation mode.
        example_input: one batch of inputs, of whose sizes all but the first are those that the program takes.

    Raises:
        InputError: torch.export cannot export the network, or `path` cannot be written.
    """
    several = torch.cat([example_input, example_input])  # a batch of one would be taken for a constant
    try:
        program = torch.export.export(network, (several,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:
        raise InputError(
            f"torch.export cannot export {type(network).__name__}: {str(error).splitlines()[0]} Its weights can be "
            "taken away instead: --to sparse."
        ) from error
    stream = io.BytesIO()
    torch.export.save(program, stream)
    write_whole(path, stream.getvalue())
