"""The commands `spl export`, which writes a pruned network to a file, and `spl summary`, which prints its costs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spl.classifier import SparseClassifier
from spl.cli.configuration import bound_yaml
from spl.cli.gains import compact_gain, csr_gain, dense_gain, report_gain, sparse_gain, two_four_gain
from spl.cli.parsers import OneLineErrors
from spl.cli.printable import printable_errors
from spl.errors import InputError
from spl.export.compaction import compact
from spl.export.csr import to_csr
from spl.export.program import save_onnx, save_program
from spl.export.sparse_file import save_sparse
from spl.export.summary import summarize
from spl.export.two_four import to_two_four
from spl.files import serialized_size
from spl.masks.masks import Masks
from spl.networks import FullyConnected


def export(
    ckpt_path: Path,
    to: Literal["dense", "csr", "2:4", "compact", "onnx", "sparse"],
    output: Path,
    input_shape: list[int] | None = None,
    batch_size: int = 1,
    trust: tuple[str, ...] | str = (),
) -> None:
    """Write a pruned network to a file, as a program that runs or as its weights alone.

    All formats except onnx and sparse are programs of PyTorch. They run without this package, on batches of any size:
    torch.export.load(OUTPUT).module() (csr needs `import spl.export` first).

    Args:
        ckpt_path: a checkpoint that `spl fit` wrote.
        to: dense: the network as it is. compact: the network without the units and channels that its masks have
            killed. csr: Linear layers use CSR kernels where these are faster on this machine. 2:4: Linear layers with
            masks of this pattern use the sparse tensor cores of a CUDA device, in float16. onnx: the compact network,
            for onnxruntime and other programs that read ONNX. sparse: not a program but the weights, only kept values
            and their places, which spl.export.load_sparse turns into a state dict.
        output: the file to write; an existing file is never overwritten.
        input_shape: the shape of one input, such as [3, 32, 32]; not needed for fully connected networks.
        batch_size: the number of inputs for which csr is to be fast.
        trust: a class of your own that the network needs, such as mynet.Net, or several, such as
            [mynet.Net, mynet.Block], of installed packages or of files in the current folder. Apart from these and
            spl.networks, nothing that the checkpoint names is imported.
    """
    _check_free(output)
    network, masks = _pruned(ckpt_path, trust)
    if to == "sparse":
        save_sparse(output, network.state_dict(), masks)
        gain = sparse_gain(output.stat().st_size, serialized_size(network.state_dict()))
    else:
        network, example, gain = _converted(network, masks, to, _example(network, batch_size, input_shape))
        (save_onnx if to == "onnx" else save_program)(output, network, example)
    print(f"{to}: {output}, {output.stat().st_size:,} bytes\n{gain}")


def summary(ckpt_path: Path, input_shape: list[int] | None = None, trust: tuple[str, ...] | str = ()) -> None:
    """Print what a pruned network costs: parameters, multiply-accumulates (MACs) for one input, bytes on disk.

    Args:
        ckpt_path: a checkpoint that `spl fit` wrote.
        input_shape: the shape of one input, such as [3, 32, 32]; not needed for fully connected networks.
        trust: a class of your own that the network needs, such as mynet.Net, or several, such as
            [mynet.Net, mynet.Block], of installed packages or of files in the current folder. Apart from these and
            spl.networks, nothing that the checkpoint names is imported.
    """
    network, masks = _pruned(ckpt_path, trust)
    costs = summarize(network, masks, _example(network, 1, input_shape))
    print(costs.table())
    print(f"checkpoint: {ckpt_path}, {ckpt_path.stat().st_size:,} bytes")
    print(compact_gain("compact", costs.parameters, costs.compact_parameters, masks))


def _converted(network: nn.Module, masks: Masks, to: str, example: Tensor) -> tuple[nn.Module, Tensor, str]:
    """Return the network to write, an example of its inputs and what is gained; print what was done to its layers."""
    if to in ("compact", "onnx"):
        smaller = compact(network, masks, example)
        print(smaller.report.table())
        return smaller.network, example, report_gain(to, smaller.report, masks)
    if to == "csr":
        faster = to_csr(network, masks, example)
        print(f"{faster.table()}\nmeasured here, batch {len(example)}, threads {torch.get_num_threads()}")
        return faster.network, example, csr_gain(faster)
    if to == "2:4":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        example = example.to(device, torch.float16)
        halves = to_two_four(network.to(device, torch.float16), masks, example)
        print(f"{halves.table()}\nmeasured here, batch {len(example)}")
        return halves.network, example, two_four_gain(halves)
    return network, example, dense_gain(masks)


def _check_free(output: Path) -> None:
    """Raise an error, before anything is computed, if the file exists or its folder does not."""
    if output.exists():
        raise InputError(f"{output} exists already, and nothing is overwritten: remove it, or give another --output.")
    if not output.absolute().parent.is_dir():
        raise InputError(f"There is no folder {output.parent}: make it, or give another --output.")


def _pruned(ckpt_path: Path, trust: tuple[str, ...] | str) -> tuple[nn.Module, Masks]:
    """Load the network of a checkpoint, on the CPU and in evaluation mode, and its masks."""
    model = SparseClassifier.load_from_checkpoint(ckpt_path, map_location="cpu", trust=trust)
    if model.masks is None:
        raise InputError(f"{ckpt_path} has no masks: its network was never pruned. Give a checkpoint of a pruned one.")
    return model.network.eval(), model.masks


def _example(network: nn.Module, batch_size: int, shape: list[int] | None) -> Tensor:
    if shape is None and not isinstance(network, FullyConnected):
        raise InputError(
            f"{type(network).__name__} does not say which shape its inputs have: give --input_shape, such as "
            "[3, 32, 32] for CIFAR-10 or [1, 28, 28] for MNIST."
        )
    sizes = [batch_size, *(shape if shape is not None else [network.in_features])]
    if min(sizes) < 1:
        raise InputError(f"--batch_size and --input_shape must be at least 1, got {batch_size} and {shape}.")
    example = torch.randn(sizes)
    try:
        with torch.no_grad():
            network(example[:1])
    except RuntimeError as error:
        raise InputError(
            f"{type(network).__name__} cannot read inputs of the shape {sizes[1:]} ({error}): give the --input_shape "
            "of its data."
        ) from error
    return example


def parsers() -> dict[str, OneLineErrors]:
    """Return the parsers of both commands by name.

    Example:
        >>> from spl.cli.export import parsers
        >>> list(parsers())
        ['export', 'summary']
    """
    return {"export": _parser("spl export", export), "summary": _parser("spl summary", summary)}


def _parser(name: str, function: Callable[..., None]) -> OneLineErrors:
    parser = OneLineErrors(prog=name, description=(function.__doc__ or "").partition("\n\n    Args:")[0])
    parser.add_function_arguments(function, as_group=False)
    return parser


def export_command(args: Sequence[str]) -> None:
    """Run the command line `args` of `spl export`."""
    _run("spl export", export, args)


def summary_command(args: Sequence[str]) -> None:
    """Run the command line `args` of `spl summary`."""
    _run("spl summary", summary, args)


def _run(name: str, function: Callable[..., None], args: Sequence[str]) -> None:
    parser = _parser(name, function)
    bound_yaml()
    with printable_errors():
        chosen: dict[str, Any] = dict(parser.parse_args(list(args)))
    function(**chosen)
