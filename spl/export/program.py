"""Networks as programs that run without the code that defines them: PyTorch programs and ONNX files."""

import io
import re
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from spl.errors import InputError, first_line
from spl.export.onnx_check import check_onnx
from spl.export.plain_outputs import plain_outputs
from spl.export.program_check import check_program
from spl.files import write_whole
from spl.functional.undisturbed import undisturbed


def save_program(path: str | Path, network: nn.Module, example_input: Tensor) -> None:
    """Write the network as a PyTorch program, a `.pt2` file.

    `torch.export.load(path).module()` is the network again, for batches of any size. Named outputs, such as those of
    Hugging Face, become a dictionary. If it has layers on CSR kernels,
    `import spl.export` must come before, because this package defines the operator that they call.

    Before the file is written, its contents are loaded and run on two batches of random inputs, and the outputs are
    compared with those of the network. They may differ by 1e-4 of the largest output, or in half precision by ten
    rounding units.

    Args:
        path: the file to write; it is written whole or not at all.
        network: the network; it is exported as it is in evaluation mode, and it is not changed.
        example_input: one batch of inputs, such as images or tokens; the program takes inputs of its sizes, except that
            of the batch.

    Raises:
        InputError: torch.export cannot export the network, the program computes something else, or `path` cannot be
            written.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from spl.export import save_program
        >>> network, inputs = torch.nn.Linear(3, 2).eval(), torch.randn(5, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_program(f"{folder}/network.pt2", network, inputs)
        ...     program = torch.export.load(f"{folder}/network.pt2").module()
        >>> torch.equal(program(inputs), network(inputs))
        True
    """
    with undisturbed(network), plain_outputs(network):
        stream = io.BytesIO()
        torch.export.save(_export(network, example_input), stream)
        data = stream.getvalue()
        check_program(data, network, example_input)
    write_whole(path, data)


def save_onnx(path: str | Path, network: nn.Module, example_input: Tensor) -> None:
    """Write the network as an ONNX file with one input, `inputs`, for batches of any size.

    A network with several outputs, such as one of Hugging Face, has them in the order in which it returns them. The
    file contains the weights:

        session = onnxruntime.InferenceSession(path)
        (outputs,) = session.run(None, {"inputs": batch})

    Before the file is written, onnxruntime runs it on two batches of random inputs, and the outputs are compared with
    those of the network. They may differ by 1e-4 of the largest output, or in half precision by ten rounding units.
    Where onnxruntime is not installed, a warning says that nothing was compared.

    Args:
        path: the file to write; it is written whole or not at all.
        network: the network; it is exported as it is in evaluation mode, and it is not changed. A compact one has fewer
            operations, while zeros are multiplied like any other number.
        example_input: one batch of inputs, such as images or tokens; the file takes inputs of its sizes, except that of
            the batch.

    Raises:
        InputError: onnxscript is not installed, the network cannot be exported or has operations that ONNX lacks, it
            is too large for one file (2 GiB), onnxruntime cannot run it or computes something else, or `path` cannot
            be written.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from onnxruntime import InferenceSession
        >>> from spl.export import save_onnx
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_onnx(f"{folder}/network.onnx", torch.nn.Linear(3, 2), torch.randn(1, 3))
        ...     session = InferenceSession(f"{folder}/network.onnx")
        >>> (outputs,) = session.run(None, {"inputs": torch.randn(5, 3).numpy()})
        >>> outputs.shape
        (5, 2)
    """
    if find_spec("onnxscript") is None:
        raise InputError("Writing ONNX files needs onnxscript: pip install 'spl-lightning[onnx]'.")
    with undisturbed(network), plain_outputs(network):
        data = _onnx_model(network, example_input)
        check_onnx(data, network, example_input)
    write_whole(path, data)


def _onnx_model(network: nn.Module, example: Tensor) -> bytes:
    """Return the contents of the ONNX file of a network."""
    program = _export(network, example)
    try:
        onnx = torch.onnx.export(
            program, dynamo=True, input_names=["inputs"], dynamic_shapes=({0: "batch"},), verbose=False
        )
        assert onnx is not None
        return bytes(onnx.model_proto.SerializeToString())
    except Exception as error:
        raise InputError(
            f"torch.onnx cannot write {type(network).__name__}: {_first_cause(error)}. Export it as a PyTorch "
            "program: --to dense or compact."
        ) from error


def _export(network: nn.Module, example: Tensor) -> ExportedProgram:
    several = torch.cat([example, example])  # torch.export would take a batch of one for a constant
    try:
        with warnings.catch_warnings():  # recurrent layers assign references to their own weights; outputs are compared
            warnings.filterwarnings("ignore", r"The tensor attributes? .*_flat_weights")
            return torch.export.export(network, (several,), dynamic_shapes=({0: Dim("batch")},))
    except Exception as error:
        unknown = re.search(r"Found <class '(.+?)'> in output", str(error))
        why = first_line(error) if unknown is None else f"its outputs hold a {unknown[1]}, which is no tensor."
        remedy = "Export only its weights: --to sparse."
        if unknown is not None:
            remedy = "Let it return tensors alone. For a network of Hugging Face: network.config.use_cache = False."
        raise InputError(f"torch.export cannot export {type(network).__name__}: {why} {remedy}") from error


def _first_cause(error: BaseException) -> str:
    """Return the first line of the error that caused all others."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
