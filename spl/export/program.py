"""Networks as programs that run without the code that they were written in: PyTorch's own, and ONNX."""

import io
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from spl.errors import InputError, first_line
from spl.export.onnx_check import check_onnx
from spl.files import write_whole
from spl.functional.undisturbed import undisturbed


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
    stream = io.BytesIO()
    torch.export.save(_export(network, example_input), stream)
    write_whole(path, stream.getvalue())


def save_onnx(path: str | Path, network: nn.Module, example_input: Tensor) -> None:
    """Write an ONNX file with one input, `inputs`, for batches of any size, with the weights in it.

        session = onnxruntime.InferenceSession(path)
        (outputs,) = session.run(None, {"inputs": batch})

    Before the file is written, onnxruntime computes two batches of random inputs, and its outputs are compared with
    the network's. They may differ by 1e-4 of the largest output, or in half precision by ten units of rounding. Where
    onnxruntime is not installed, a warning says that nothing was compared.

    Args:
        path: where to; the file is written whole or not at all.
        network: exported as it is in evaluation mode, and left as it was found; a compact one has the fewer
            operations, while zeros are multiplied like any number.
        example_input: one batch of inputs, of whose sizes all but the first are those that the file takes.

    Raises:
        InputError: onnxscript is not installed, the network cannot be exported or has operations that ONNX has not,
            it is too large for one file (2 GiB), onnxruntime cannot run it or computes something else, or `path`
            cannot be written.
    """
    if find_spec("onnxscript") is None:
        raise InputError("ONNX files are written by onnxscript, which is not installed: pip install 'spl[onnx]'.")
    with undisturbed(network):
        data = _onnx_model(network, example_input)
        check_onnx(data, network, example_input)
    write_whole(path, data)


def _onnx_model(network: nn.Module, example: Tensor) -> bytes:
    """The contents of its file."""
    program = _export(network, example)
    try:
        onnx = torch.onnx.export(
            program, dynamo=True, input_names=["inputs"], dynamic_shapes=({0: "batch"},), verbose=False
        )
        assert onnx is not None
        return bytes(onnx.model_proto.SerializeToString())
    except Exception as error:
        raise InputError(
            f"torch.onnx cannot write {type(network).__name__}: {_first_cause(error)}. Export it as a program of "
            "PyTorch: --to dense or compact."
        ) from error


def _export(network: nn.Module, example: Tensor) -> ExportedProgram:
    several = torch.cat([example, example])  # a batch of one would be taken for a constant
    try:
        return torch.export.export(network, (several,), dynamic_shapes=({0: Dim("batch")},))
    except Exception as error:
        raise InputError(
            f"torch.export cannot export {type(network).__name__}: {first_line(error)} Its weights can be "
            "taken away instead: --to sparse."
        ) from error


def _first_cause(error: BaseException) -> str:
    """The first line of the error that all others came from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
