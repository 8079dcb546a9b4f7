"""Runs of a network that leave it unchanged."""

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from spl.errors import InputError
from spl.functional.module_state import ModuleState
from spl.functional.torch_private import BatchNorm, NormBase
from spl.functional.without_dropout import WithoutDropout, silence

BatchNormMode = Literal["eval", "batch"]


@contextmanager
def undisturbed(network: nn.Module, batch_norm: BatchNormMode = "eval", as_trained: bool = False) -> Iterator[None]:
    """Put `network` into evaluation mode inside the context, and restore its state exactly afterwards.

    Modes, parameters, buffers, gradients, hooks and all other attributes of its modules are restored bit for bit,
    whatever the network did to them, and so are the random streams; see `ModuleState`. A compiled network runs eagerly
    inside, so that its backward pass can be taken more than once. A network with recurrent layers runs without cuDNN,
    which has no gradients of them in evaluation mode and no second derivatives.

    Args:
        network: any module.
        batch_norm: `eval` normalizes by the running statistics, which are mean 0 and variance 1 at initialization
            (the paper's choice); `batch` normalizes by the statistics of each batch.
        as_trained: whether to leave modules in the modes in which they are trained, for networks whose output differs
            in evaluation mode. Only normalization is as chosen, and dropout is off.

    Raises:
        InputError: `batch_norm` is unknown, or is `batch` and the network gets a batch of one example.

    Example:
        >>> from torch import nn
        >>> from spl.functional.undisturbed import undisturbed
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> with undisturbed(network):
        ...     print(network[1].training)
        False
        >>> network[1].training
        True
    """
    if batch_norm not in get_args(BatchNormMode):
        raise InputError(f"batch_norm must be one of {', '.join(get_args(BatchNormMode))}, got {batch_norm!r}.")
    state = ModuleState(network)
    devices = {p.device.index for p in network.parameters() if p.device.type == "cuda"}
    streams = random.getstate(), np.random.get_state()  # noqa: NPY002 (modules may draw from this stream)
    recurrent = any(isinstance(module, nn.RNNBase) for module in network.modules())
    with _without_cudnn(recurrent), torch.random.fork_rng(devices=sorted(d for d in devices if d is not None)):
        try:
            if as_trained:
                silence(network)
            else:
                network.eval()
            for module in network.modules():
                if isinstance(module, NormBase):
                    module.eval()
                    if batch_norm == "batch" and isinstance(module, BatchNorm):
                        module.train()
                        module.register_forward_pre_hook(_refuse_single_example)
            dropout = WithoutDropout() if as_trained else nullcontext()
            with torch.compiler.set_stance("force_eager"), torch.enable_grad(), dropout:
                yield
        finally:
            state.restore()
            state.close()
            random.setstate(streams[0])
            np.random.set_state(streams[1])  # noqa: NPY002


def batch_norm_text(network: nn.Module, mode: BatchNormMode) -> str:
    """Return by what the BatchNorm of a network normalizes, for what is measured in that mode; empty without BatchNorm.

    Example:
        >>> from torch import nn
        >>> from spl.functional.undisturbed import batch_norm_text
        >>> batch_norm_text(nn.Sequential(nn.BatchNorm1d(2)), "eval")
        'BatchNorm by running statistics (batch_norm: eval)'
    """
    if not any(isinstance(module, BatchNorm) for module in network.modules()):
        return ""
    statistics = "running statistics" if mode == "eval" else "the statistics of each batch"
    return f"BatchNorm by {statistics} (batch_norm: {mode})"


def _refuse_single_example(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if module.training and len(inputs[0]) == 1:
        raise InputError(
            "BatchNorm cannot normalize a batch of one example by the batch's own statistics: use batches (for the "
            "spectrum: chunks) of two examples or more, or batch_norm: eval."
        )


@contextmanager
def _without_cudnn(wanted: bool) -> Iterator[None]:
    """Switch cuDNN off inside the context if it is wanted; `torch.backends.cudnn.flags` would reset other flags."""
    enabled = torch.backends.cudnn.enabled
    try:
        if wanted:
            torch.backends.cudnn.enabled = False
        yield
    finally:
        if wanted:
            torch.backends.cudnn.enabled = enabled
