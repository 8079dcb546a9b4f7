"""ProsPr: the gradient with respect to the mask of the loss after a few steps of training."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from spl.criteria.criterion import Criterion, Scores, Subject
from spl.criteria.objective import examples
from spl.criteria.processes import Processes
from spl.criteria.second_derivatives import differentiable_gradient, named_operators
from spl.errors import InputError


class ProsPr(Criterion):
    """Prospect pruning: `|∂L(θ_K)/∂m|`, how the loss after K steps of SGD from `θ_0 = w ⊙ m` depends on the mask m.

    Alizadeh et al. 2022 (arXiv:2202.08132): these meta-gradients see how the weights will train, and not only the loss
    at initialization. The steps are `v_{k+1} = μ v_k + ∂L_k(θ_k)/∂θ` and `θ_{k+1} = θ_k − η v_{k+1}`, with the learning
    rate η and the momentum μ. They train all parameters of the network, also those that are not pruned. The gradient
    is exact: it flows back through every step, by K products with the Hessian. The defaults are those of the authors'
    program. The authors let BatchNorm normalize by the statistics of each batch, which is `batch_norm: batch`. Their
    code holds the first momentum constant, so that with μ > 0 it differentiates the update only in part. Here the whole
    update is differentiated.

    Step k trains on batch k, and the final loss is that of the batch after the last step. So K + 1 batches are read,
    and further ones are not. Where there are fewer, they are used again in turn, as the authors do. With one batch, all
    steps train on it. Unlike for other criteria, the size of the batches matters.

    With several processes, the first one trains as if it were alone, and all of them get its scores. Of a loader that
    was split by a DistributedSampler before, it has only its own share, so the masks then depend on the number of
    processes. The memory beyond one step of GraSP is that of one copy of all parameters for each step. Networks and
    losses with an operator that has no second derivative are refused, unless `first_order` is set.

    Args:
        steps: K, the number of training steps.
        lr: η, the learning rate of these steps.
        momentum: μ, their momentum.
        first_order: whether to hold all updates constant, which takes no second derivatives: the scores are then
            `|w ⊙ ∂L(θ_K)/∂θ|`. It is the approximation that the authors use for ImageNet.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import ProsPr
        >>> from spl.pruning import prune
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> batches = [(torch.randn(16, 4), torch.randint(3, (16,))) for _ in range(4)]
        >>> masks = prune(network, ProsPr(steps=3), sparsity=0.75, batches=batches)
        >>> {name: mask.sum().item() for name, mask in masks.items()}
        {'0.weight': 7, '2.weight': 7}
    """

    needs_data = True

    def __init__(self, steps: int = 3, lr: float = 0.1, momentum: float = 0.0, first_order: bool = False) -> None:
        if steps < 1:
            raise InputError(f"steps must be at least 1, got {steps}. The scores without a step are those of SNIP.")
        if not lr > 0:
            raise InputError(f"lr must be positive, got {lr}.")
        if not 0 <= momentum < 1:
            raise InputError(f"momentum must lie in [0, 1), got {momentum}.")
        self.steps = steps
        self.lr = lr
        self.momentum = momentum
        self.first_order = first_order

    def __call__(self, subject: Subject) -> Scores:
        """Return non-negative scores. Weights that earlier rounds pruned stay 0 during the steps."""
        batches = _in_turn(Processes().batches(subject.batches), self.steps + 1)
        kinds = {name: torch.promote_types(w.dtype, torch.float32) for name, w in subject.weights.items()}
        scores = {name: torch.zeros_like(w, dtype=kinds[name]) for name, w in subject.weights.items()}
        if subject.processes.rank == 0:
            for name, gradient in self._gradients(subject, batches).items():
                scores[name] = (gradient.to(kinds[name]) * subject.weights[name]).abs_()
        else:
            for _ in batches:  # every process reads the same, so that all of them count the same batches
                pass
        subject.processes.add_up_(list(scores.values()))  # those of other processes are 0
        return scores

    def _gradients(self, subject: Subject, batches: Iterable[Any]) -> dict[str, Tensor]:
        """Return ∂L(θ_K)/∂θ_0 of the scored weights, by name.

        Raises:
            InputError: it is not finite.
        """
        training = _Training(subject)
        steps: list[_Step] = []
        velocity: list[Tensor] = []
        try:
            for batch in batches:
                step = _Step(training.weights(), batch, _streams(training.parameters[0].device))
                gradient = training.gradient(batch)
                if len(steps) == self.steps:
                    break
                steps.append(step)
                gradient = training.masked(gradient)
                velocity = [g + self.momentum * v for g, v in zip(gradient, velocity, strict=False)] or gradient
                training.set([w - self.lr * v for w, v in zip(step.weights, velocity, strict=True)])
            if not self.first_order:
                self._backpropagate(training, steps, gradient)
        finally:
            training.set(steps[0].weights if steps else training.weights())
        if not all(g.isfinite().all() for g in gradient):
            raise InputError(
                f"The gradient through the {self.steps} training steps of ProsPr is NaN or infinite: the steps diverge "
                f"at lr {self.lr:g}, or the loss is not finite. Use a smaller lr, fewer steps or first_order."
            )
        by_name = dict(zip(training.names, gradient, strict=True))
        return {name: by_name[name] for name in subject.weights}

    def _backpropagate(self, training: "_Training", steps: list["_Step"], gradient: list[Tensor]) -> None:
        """Turn the gradient with respect to θ_K into that with respect to θ_0, in place."""
        of_velocity = [torch.zeros_like(g) for g in gradient]
        for step in reversed(steps):
            for v, g in zip(of_velocity, gradient, strict=True):
                v.mul_(self.momentum).sub_(g, alpha=self.lr)
            training.set(step.weights)
            _rewind(step.streams)
            products = training.hessian_product(step.batch, training.masked(of_velocity))
            for g, product in zip(gradient, products, strict=True):
                g.add_(product)


class _Step(NamedTuple):
    """What a step of training started from, in order to differentiate it afterwards."""

    weights: list[Tensor]
    batch: Any
    streams: list[Callable[[], object]]


class _Training:
    """The parameters of a network while it trains, and the gradient and Hessian of its mean loss on a batch."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        parameters = {
            name: p for name, p in subject.network.named_parameters() if p.requires_grad and p.is_floating_point()
        }
        self.names = list(parameters)
        self.parameters = list(parameters.values())

    def weights(self) -> list[Tensor]:
        """Return a copy of the parameters."""
        return [p.detach().clone() for p in self.parameters]

    def set(self, weights: Sequence[Tensor]) -> None:
        """Write values into the parameters."""
        for parameter, weight in zip(self.parameters, weights, strict=True):
            parameter.detach().copy_(weight)

    def masked(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return tensors in the shapes of the parameters, with 0 for weights that earlier rounds have pruned."""
        masks = self.subject.masks
        if masks is None:
            return [tensor.clone() for tensor in tensors]
        return [
            tensor * masks[name].to(tensor.device) if name in masks else tensor.clone()
            for name, tensor in zip(self.names, tensors, strict=True)
        ]

    def gradient(self, batch: Any) -> list[Tensor]:
        """Return the gradient of the loss."""
        return list(torch.autograd.grad(self._loss(batch), self.parameters, materialize_grads=True))

    def hessian_product(self, batch: Any, vector: list[Tensor]) -> list[Tensor]:
        """Return the product of the Hessian of the loss with a vector."""
        with sdpa_kernel(SDPBackend.MATH):  # torch's fused attention has no second derivative
            gradient = differentiable_gradient(self._loss(batch), self.parameters, "ProsPr")
            slope = torch.stack([(g * v).sum() for g, v in zip(gradient, vector, strict=True)]).sum()
            if not slope.requires_grad:  # the loss is linear, or the batch has none
                return [torch.zeros_like(v) for v in vector]
            with named_operators("ProsPr"):
                return list(torch.autograd.grad(slope, self.parameters, materialize_grads=True))

    def _loss(self, batch: Any) -> Tensor:
        return self.subject.loss(self.subject.network, batch) / examples(batch)


def _in_turn(batches: Iterable[Any], number: int) -> Iterator[Any]:
    """Yield `number` batches, beginning again where there are fewer."""
    read = []
    for batch in islice(batches, number):
        read.append(batch)
        yield batch
    for k in range(len(read), number):
        yield read[k % len(read)]


def _streams(device: torch.device) -> list[Callable[[], object]]:
    """Return functions that set the random streams back to where they are, for losses that draw numbers."""
    own, numbers, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    streams: list[Callable[[], object]] = [
        lambda: random.setstate(own),
        lambda: np.random.set_state(numbers),  # noqa: NPY002
        lambda: torch.set_rng_state(torch_state),
    ]
    if device.type != "cpu":
        module = torch.get_device_module(device)
        state = module.get_rng_state()
        streams.append(lambda: module.set_rng_state(state))
    return streams


def _rewind(streams: Iterable[Callable[[], object]]) -> None:
    for give_back in streams:
        give_back()
