"""What the checks of a training state let pass: the states of PyTorch's own optimizers and schedules."""

import io

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler

from spl.callbacks.safety.restored_optimizers import _faults
from spl.callbacks.safety.training_state import check_training_state

OPTIMIZERS = [
    cls
    for cls in (getattr(optim, name) for name in dir(optim))
    if isinstance(cls, type) and issubclass(cls, optim.Optimizer) and cls not in (optim.Optimizer, optim.SparseAdam)
]


def through_a_file(state):
    stream = io.BytesIO()
    torch.save(state, stream)
    return torch.load(io.BytesIO(stream.getvalue()), weights_only=True)


def stepped(cls, **options):
    """Return a factory of optimizers of two weights, and the state of one that has made three steps."""

    def made():
        weights = [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(2, 3))]
        return cls(weights, lr=options.pop("lr", 0.01), **options), weights

    optimizer, weights = made()
    for _ in range(3):
        optimizer.zero_grad()
        sum(weight.square().sum() for weight in weights).backward()
        optimizer.step(
            lambda: sum(weight.square().sum() for weight in weights)
        ) if cls is optim.LBFGS else optimizer.step()
    return made, through_a_file(optimizer.state_dict())


OPTIONS = [{}, {"lr": torch.tensor(0.01)}]


@pytest.mark.parametrize("options", OPTIONS, ids=["", "a tensor as the learning rate"])
@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_the_state_of_an_optimizer_is_taken(cls, options):
    try:
        made, state = stepped(cls, **options)
    except (ValueError, TypeError, RuntimeError):
        pytest.skip("the optimizer does not take a tensor as its learning rate")
    check_training_state({"optimizer_states": [state]}, "x.ckpt")
    optimizer, _ = made()
    optimizer.load_state_dict(state)
    assert list(_faults(optimizer)) == []


SCHEDULES = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 2]),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, 10),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.CosineAnnealingLR(o, 10)], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.LinearLR(o)]),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_state_of_a_schedule_is_taken(schedule):
    optimizer = optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
    made = schedule(optimizer)
    for _ in range(3):
        optimizer.step()
        made.step(*([1.0] if isinstance(made, lr_scheduler.ReduceLROnPlateau) else []))
    check_training_state({"lr_schedulers": [through_a_file(made.state_dict())]}, "x.ckpt")
