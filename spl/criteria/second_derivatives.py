"""Gradients that are to be differentiated again, and the refusal of operators that have no second derivative."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import Node

from spl.errors import InputError, first_line
from spl.functional.graph import Graph, nodes_between
from spl.functional.torch_private import function_class

_REFUSALS = re.compile(
    r"derivative for \S+ is not implemented|double backward|differentiate twice|once_differentiable|does not support "
    r"second",
    re.IGNORECASE,
)
_REMEDY = (
    "Replace the operator by one that is made of PyTorch's own functions, or use a criterion of first derivatives: "
    "ConnectionSensitivity, IterativeSNIP or FORCE."
)


def differentiable_gradient(loss: Tensor, tensors: Sequence[Tensor], reader: str = "GraSP") -> list[Tensor]:
    """Return the gradient of a loss, which is differentiable itself.

    PyTorch raises no error where the gradient of an operator lacks a graph. What lies before the operator is then
    missing from second derivatives, which are silently wrong. Only operators that are classes or C++ functions outside
    PyTorch can be so. They are refused if they are marked as `once_differentiable`, or if their gradient does not
    depend on the gradient that they get.

    Args:
        loss: the loss, a scalar.
        tensors: the tensors to differentiate by.
        reader: the name of the criterion, for the message.

    Raises:
        InputError: an operator between the tensors and the loss has no second derivative.

    Example:
        >>> import torch
        >>> from spl.criteria.second_derivatives import differentiable_gradient
        >>> w = torch.tensor(2.0, requires_grad=True)
        >>> (gradient,) = differentiable_gradient(w**3, [w])
        >>> torch.autograd.grad(gradient, w)
        (tensor(12.),)
    """
    failed: list[str] = []
    custom = list(_custom_operators(loss, tensors)) if loss.requires_grad else []
    hooks = [node.register_hook(partial(_note_missing_graph, node, failed)) for node in custom]
    try:
        with named_operators(reader):
            gradient = torch.autograd.grad(loss, tensors, create_graph=True, materialize_grads=True)
    finally:
        for hook in hooks:
            hook.remove()
    if failed:
        raise InputError(
            f"{reader} takes second derivatives, and the operator {failed[0]} has none: its backward pass cannot be "
            f"differentiated. {_REMEDY}"
        )
    return list(gradient)


@contextmanager
def named_operators(reader: str = "GraSP") -> Iterator[None]:
    """Turn PyTorch's error about an operator without a second derivative into an `InputError` that says what to do.

    Args:
        reader: the name of the criterion, for the message.

    Raises:
        InputError: an operator has no second derivative.

    Example:
        >>> from spl.criteria.second_derivatives import named_operators
        >>> with named_operators():
        ...     raise RuntimeError("derivative for aten::_ctc_loss_backward is not implemented")
        Traceback (most recent call last):
        spl.errors.InputError: GraSP takes second derivatives, and an operator has none: derivative for aten::_ctc_lo...
    """
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if _REFUSALS.search(str(error)) is None:
            raise
        raise InputError(
            f"{reader} takes second derivatives, and an operator has none: {first_line(error)}. {_REMEDY}"
        ) from error


def _custom_operators(loss: Tensor, tensors: Sequence[Tensor]) -> Iterator[Node]:
    """Yield the operators between tensors and loss that are not PyTorch's own."""
    graph = Graph(loss)
    custom = [node for node in graph if function_class(node) is not None or "CppNode" in node.name()]
    if not custom:
        return
    leaves = {leaf for leaf in map(graph.leaf, tensors) if leaf is not None}
    assert loss.grad_fn is not None
    between = nodes_between(loss.grad_fn, leaves)
    yield from (node for node in custom if node in between)


def _note_missing_graph(node: Node, failed: list[str], inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
    """Note the name of an operator whose gradients `inputs` cannot be differentiated by the gradients `outputs`."""
    given = {g.grad_fn for g in outputs if isinstance(g, Tensor) and g.grad_fn is not None}
    made = [gradient for gradient in inputs if isinstance(gradient, Tensor) and bool(gradient.any())]
    is_missing = given and made and not any(_depends(gradient, given) for gradient in made)
    if _is_marked(node) or is_missing:
        failed.append(node.name().removesuffix("Backward"))


def _depends(gradient: Tensor, given: set[Node]) -> bool:
    """Return whether a gradient is computed from one of those that the nodes `given` made."""
    return gradient.grad_fn is not None and (gradient.grad_fn in given or bool(nodes_between(gradient.grad_fn, given)))


def _is_marked(node: Node) -> bool:
    """Return whether an operator is marked as `once_differentiable`."""
    backward = getattr(function_class(node), "backward", None)
    return getattr(backward, "__code__", None) is _MARKER


_MARKER = once_differentiable(lambda context: None).__code__
