import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that the tests start

import functools
import gc
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

collect_ignore = ["support"]  # helpers that the tests share, and the scripts that they run
os.environ.pop("COLUMNS", None)  # of the terminal of pytest, which its workers inherit
signal.signal(signal.SIGINT, signal.default_int_handler)  # SIGINT is ignored when the tests run in the background


def pytest_collectstart() -> None:
    """Prepare a process that collects tests; the one that deals them out to others needs neither torch nor hypothesis.

    What is imported and collected is kept, so that looking for garbage among it would be in vain. spl works with the
    package of Lightning that is imported first, and libraries that tests import may import either. With
    SPL_TEST_LIGHTNING=lightning, all tests use the package `lightning`.
    """
    if gc.isenabled():  # at the first of many calls
        gc.disable()
        if os.environ.get("SPL_TEST_LIGHTNING") == "lightning":
            import lightning_for_pytorch_lightning  # noqa: F401

        import pytorch_lightning  # noqa: F401
        import torch
        from hypothesis import settings
        from lightning_fabric.utilities import registry

        from spl import lightning_api

        assert lightning_api.package() == os.environ.get("SPL_TEST_LIGHTNING", "pytorch_lightning")
        registry.entry_points = functools.cache(registry.entry_points)  # each Trainer reads those of all packages
        torch.set_num_threads(1)
        settings.register_profile("spl", deadline=None, derandomize=True, max_examples=50)
        settings.load_profile("spl")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put slow tests at the beginning of each half: two workers take one half each, and later what the other has left.

    Those that start processes are in the first half, because the process that these are forked from takes seconds to
    start.
    """
    slow = [item for item in items if item.get_closest_marker("slow")]
    first = [item for item in slow if {"python", "report_of"} & vars(item.module).keys()]
    second = [item for item in slow if item not in first]
    fast = [item for item in items if not item.get_closest_marker("slow")]
    half = max(0, len(items) // 2 - len(first))
    while 0 < half < len(fast) and fast[half].path == fast[half - 1].path:
        half += 1  # a file in two parts would make the fixtures of its module twice
    items[:] = [*first, *fast[:half], *second, *fast[half:]]


def pytest_collection_finish() -> None:
    """Exempt what has been imported and collected from garbage collection.

    These are about a million objects that live as long as the process: every full collection would visit all of them.
    """
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import torch

    torch.default_generator.manual_seed(0)  # torch.manual_seed takes a millisecond to note the seed for other devices


@pytest.fixture(scope="session")
def spl_data() -> Path:
    """Return the folder of the full data sets, in torchvision's layout."""
    if "SPL_DATA" not in os.environ:
        pytest.skip("SPL_DATA is not set: name the folder that has MNIST, FashionMNIST and cifar-10-batches-py")
    return Path(os.environ["SPL_DATA"])


@pytest.fixture(scope="session")
def snapshot() -> Callable[["nn.Module"], dict[str, Any]]:
    """Return a function that captures the state of a network and the random stream, as values that can be compared."""
    import torch

    def taken(network: "nn.Module") -> dict[str, Any]:
        named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        tensors = {name: tensor.detach().numpy().tobytes() for name, tensor in named.items()}
        gradients = {
            name: None if p.grad is None else p.grad.numpy().tobytes() for name, p in network.named_parameters()
        }
        return {
            "tensors": tensors,
            "gradients": gradients,
            "parameters": {name: id(p) for name, p in network.named_parameters()},
            "requires_grad": {name: p.requires_grad for name, p in network.named_parameters()},
            "modes": {name: module.training for name, module in network.named_modules()},
            "random": torch.get_rng_state().numpy().tobytes(),
            "grad_enabled": torch.is_grad_enabled(),
        }

    return taken


@pytest.fixture(autouse=True)
def _forget_modules_of_the_test():
    """Forget the modules that a test has written into its folder, and the folder in the search path."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in ("own", "beside", "omegaconf"):
        sys.modules.pop(name, None)


@pytest.fixture
def fresh_accelerate():
    """Let accelerate forget the state that all Accelerators of the process share, before a test and after it."""
    state = pytest.importorskip("accelerate.state")

    def forget():
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()

    forget()
    yield
    forget()
