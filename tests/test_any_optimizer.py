"""Pruned weights stay exactly 0.0, whether third-party optimizers or other code change the weights."""

import copy
import gc
import math
import threading
import warnings
from functools import partial

import pytest
import pytorch_lightning as L
import pytorch_optimizer
import torch
import torch.nn.functional as F
from commands import SMALL, command
from fits import classifier
from fits import fit as fit_digits
from fits import pruning as pruning_of_digits
from foreign import Plain, Trained, batches, images
from torch import nn
from torch.optim.optimizer import (
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
    register_optimizer_step_pre_hook,
)

from spl import InputError, Masks, PruneAtInit, prune
from spl.criteria import Random
from spl.masks.masked_weights import MaskedWeights
from spl.masks.masks import BoundMasks
from spl.masks.optimizer_hooks import _listeners

DATA = batches(images(24, side=4), 4)
MOVED = r"Pruned weights were not 0\.0 .*network\.\d\.weight \(\d+\).* no optimizer's step"


SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def loss_of(module, batch):
    return F.cross_entropy(module(batch[0]), batch[1])


class Small(Plain):
    """A module that counts the nonzero pruned weights in each of its forward passes."""

    def __init__(self, optimizer=SGD):
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4)))
        self.optimizer = optimizer
        self.acting = 0

    def forward(self, x):
        masks = MaskedWeights.of(self).masks
        if masks is not None and self.training:
            self.acting += sum(masks.revived(dict(self.named_parameters())).values())
        return super().forward(x)

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


def trained(make, **options):
    """Fit three epochs, during which `foreign.ZerosStay` checks the weights after each batch."""
    run = Trained(make, DATA, epochs=3, loss=loss_of, criterion=Random(), **options)
    assert len(run.check.losses) == 18
    assert run.module.acting == 0
    return run


# Third-party optimizers


class Manual(Small):
    automatic_optimization = False

    def take_step(self, optimizer, batch):
        raise NotImplementedError

    def training_step(self, batch, batch_idx):
        self.take_step(self.optimizers().optimizer, batch)
        return {"loss": loss_of(self, batch).detach()}


class BySAMsOwnSteps(Manual):
    def take_step(self, optimizer, batch):
        self.manual_backward(loss_of(self, batch))
        optimizer.first_step(zero_grad=True)
        self.manual_backward(loss_of(self, batch))
        optimizer.second_step(zero_grad=True)


class BySAMsClosure(Manual):
    def take_step(self, optimizer, batch):
        def closure():
            optimizer.zero_grad()
            self.manual_backward(loss_of(self, batch))

        closure()
        optimizer.step(closure)


SAM = partial(pytorch_optimizer.SAM, base_optimizer=torch.optim.SGD, lr=0.05, momentum=0.9)


@pytest.mark.parametrize("make", [BySAMsOwnSteps, BySAMsClosure])
def test_sam_perturbs_and_steps_live_weights_alone(make):
    run = trained(partial(make, SAM))
    (optimizer,) = run.trainer.optimizers
    parameters = dict(run.module.named_parameters())
    momenta = {name: optimizer.base_optimizer.state[parameters[name]]["momentum_buffer"] for name in run.masks}
    assert run.masks.revived(momenta) == {}


class MadeInTheStep(Manual):
    def take_step(self, optimizer, batch):
        own = torch.optim.Adam(self.parameters(), lr=0.01)
        loss_of(self, batch).backward()
        own.step()
        own.zero_grad()


def test_an_optimizer_that_is_made_in_the_training_step():
    trained(MadeInTheStep)


class Wrapper:
    """Lookahead as it is often written: it is not an Optimizer and writes its slow weights through `.data`."""

    def __init__(self, parameters):
        self.base = torch.optim.SGD(parameters, lr=0.05)
        self.param_groups, self.defaults, self.state = self.base.param_groups, self.base.defaults, self.base.state
        self.state_dict, self.load_state_dict = self.base.state_dict, self.base.load_state_dict
        self.zero_grad = self.base.zero_grad
        self.slow = [p.detach().clone() for p in self.param_groups[0]["params"]]

    def step(self, closure=None):
        loss = self.base.step(closure)
        for slow, p in zip(self.slow, self.param_groups[0]["params"], strict=True):
            slow.add_(p.data - slow, alpha=0.5)
            p.data.copy_(slow)
        return loss


OPTIMIZERS = {
    "Lookahead": lambda p: pytorch_optimizer.Lookahead(torch.optim.SGD(p, lr=0.1), k=2),
    "a wrapper that is no Optimizer": Wrapper,
    "Prodigy": lambda p: pytorch_optimizer.Prodigy(p, lr=1.0),
    "schedule-free": lambda p: pytorch_optimizer.ScheduleFreeSGD(p, lr=0.5),
    "Muon": lambda p: torch.optim.Muon([q for q in p if q.ndim == 2], lr=0.02),
    "Lion": lambda p: pytorch_optimizer.Lion(p, lr=1e-3),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2, line_search_fn="strong_wolfe"),
}


@pytest.mark.filterwarnings("ignore:.*pruned ones are set back to 0.0", "ignore:Pruned weights were not 0.0")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_any_optimizer(name):
    losses = trained(partial(Small, OPTIMIZERS[name])).check.losses
    assert sum(losses[-6:]) < sum(losses[:6])


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam", "ScheduleFreeSGD", "Lion"])
def test_on_the_command_line(name, tmp_path, monkeypatch):
    """The growth rate of Prodigy and DAdaptAdam is infinite by design and must not be refused."""
    monkeypatch.chdir(tmp_path)
    few = ["--trainer.limit_train_batches", 3, "--trainer.max_epochs", 1, "--trainer.limit_val_batches", 1]
    choice = ["--model.optimizer", f"pytorch_optimizer.{name}", "--model.lr_scheduler", "null"]
    ended = command("fit", *SMALL, *few, *choice, "--test_after_fit", "false")
    assert (ended.code, ended.errors) == (0, "")


@pytest.mark.filterwarnings("ignore:Pruned weights were not 0.0")
def test_with_a_classifier_whose_masks_no_callback_keeps():
    pruned = classifier()
    fit_digits(pruned, [pruning_of_digits()])
    model = classifier(optimizer=Wrapper)
    model.set_masks(pruned.masks)
    fit_digits(model, [])
    assert model.masks.revived(dict(model.network.named_parameters())) == {}


class LateNoise(torch.optim.SGD):
    """A subclass of SGD that changes weights without a gradient from its third step on."""

    steps = 0

    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        self.steps += 1
        for parameter in self.param_groups[0]["params"] if self.steps >= 3 else ():
            parameter.add_(1e-3)
        return loss


def test_an_optimizer_that_begins_to_move_pruned_weights_late_is_named(monkeypatch):
    monkeypatch.setattr(LateNoise, "__module__", "torch.optim.late")
    with pytest.warns(UserWarning, match=r"LateNoise moves weights that have no gradient; pruned ones are set back"):
        trained(partial(Small, partial(LateNoise, lr=0.05)))


# Changes that do not come from an optimizer


def written_in_place(module):
    with torch.no_grad():
        module.network[1].weight.add_(0.1)


def written_unseen(module):
    module.network[1].weight.data.add_(0.1)


def one_weight(module):
    mask = MaskedWeights.of(module).masks["network.1.weight"]
    module.network[1].weight.data[tuple((~mask).nonzero()[0])] = 1e-30


def given_other_memory(module):
    module.network[1].weight.data = torch.ones(16, 48)


def drawn_anew(module):
    module.network[1].reset_parameters()


def rewound(module):
    module.load_state_dict(module.start)


def replaced(module):
    module.network[1].weight = nn.Parameter(torch.ones(16, 48))


def module_replaced(module):
    module.network[1] = nn.Linear(48, 16)


def not_a_number(module):
    module.network[1].weight.data.fill_(math.nan)
    module.network[1].weight.data[MaskedWeights.of(module).masks["network.1.weight"]] = 0.1


MOVES = [
    written_in_place,
    written_unseen,
    one_weight,
    given_other_memory,
    drawn_anew,
    rewound,
    replaced,
    module_replaced,
    not_a_number,
]


class MovedInTheStep(Small):
    """A module that changes its weights in one training step, after the loss."""

    def __init__(self, move, at):
        super().__init__()
        self.start = copy.deepcopy(self.state_dict())
        self.move, self.at = move, at

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.trainer.global_step == self.at:
            loss = loss.detach().requires_grad_()  # whose backward pass does not need the changed weights
            self.move(self)
        return loss


@pytest.mark.filterwarnings("ignore:Pruned weights were not 0.0")
@pytest.mark.parametrize("move", MOVES)
def test_weights_that_are_moved_in_a_step_are_back_after_it(move):
    """This includes step 6, where the weights are checked only if there is a reason."""
    for at in (0, 6):
        trained(partial(MovedInTheStep, move, at))


def test_in_a_large_network_what_leaves_no_trace_is_undone_within_a_few_batches(monkeypatch):
    """Once a change is seen, it is undone within each batch."""
    monkeypatch.setattr("spl.masks.binding._SMALL", 800)  # the network has 832 weights
    monkeypatch.setattr("spl.masks.binding._STRIDE", 3)
    network, acting = Small(), []
    prune(network, Random(), sparsity=0.9).apply_(dict(network.named_parameters()))
    held = MaskedWeights(network)
    held.hold(Masks({name: p != 0 for name, p in network.named_parameters() if p.ndim == 2}))
    for batch in range(1, 20):
        if batch >= 10:
            written_unseen(network)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            held.keep()
        if said:
            assert "no optimizer's step" in str(said[0].message)
        acting.append(bool(held.masks.revived(held.parameters)))
    assert acting == [batch in (10, 11, 13, 14) for batch in range(1, 20)]


class MovedBetween(L.Callback):
    """A callback that changes the weights between training batches."""

    def __init__(self, move, hook):
        self.move = move
        setattr(self, hook, lambda trainer, module, *_: move(module) if trainer.global_step < 7 else None)


SEEN = [move for move in MOVES if move not in (written_unseen, one_weight, not_a_number)]  # autograd counts these


class Started(Small):
    def __init__(self):
        super().__init__()
        self.start = copy.deepcopy(self.state_dict())


@pytest.mark.parametrize("hook", ["on_train_epoch_start", "on_train_batch_start"])
@pytest.mark.parametrize("move", SEEN)
def test_weights_that_are_moved_between_steps_do_not_act_in_the_next(move, hook):
    match = "Another parameter has taken the place" if move in (replaced, module_replaced) else MOVED
    with pytest.warns(UserWarning, match=match) as said:
        trained(Started, callbacks=[MovedBetween(move, hook)])
    assert sum("Pruned weights" in str(each.message) for each in said) == 1


class Validated(Started):
    """A module that fails in validation if pruned weights are not 0."""

    def val_dataloader(self):
        return DATA

    def validation_step(self, batch, batch_idx):
        masks = MaskedWeights.of(self).masks
        assert masks.revived(dict(self.named_parameters())) == {}


@pytest.mark.parametrize("move", MOVES)
def test_weights_that_are_moved_after_a_fit_act_neither_in_validation_nor_in_the_next_fit(move):
    run = Trained(Validated, DATA, loss=loss_of)
    masks = run.masks
    settings = {"limit_val_batches": 1.0, "num_sanity_val_steps": 2, "enable_progress_bar": False, "logger": False}
    for again in ("validate", "fit"):
        move(run.module)
        callback = PruneAtInit(isometry=None)
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=1, enable_checkpointing=False, callbacks=[callback], **settings
        )
        with pytest.warns(UserWarning, match=r"Pruned weights were not 0\.0 (when fit started|before validation)"):
            getattr(trainer, again)(run.module)
        assert MaskedWeights.of(run.module).masks == masks
        assert masks.revived(dict(run.module.named_parameters())) == {}


Validated.train_dataloader = Validated.val_dataloader


# Gradients that overflow


class Overflowing(Small):
    """A module with one example of infinite gradient, which clipping by value makes finite."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + torch.sqrt((self.network[1].weight ** 2).sum(1) * 0.0).sum()


class Infinite(Small):
    def on_after_backward(self):
        self.network[1].weight.grad[:, 0] = math.inf


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_gradients_that_overflow_and_are_clipped_leave_finite_weights_as_in_the_dense_network(sparsity):
    options = {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}
    run = Trained(Infinite, DATA, loss=loss_of, sparsity=sparsity, trainer=options)
    assert all(bool(parameter.isfinite().all()) for parameter in run.module.parameters())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_what_is_masked_is_zero_whatever_it_was_and_the_rest_keeps_every_bit(dtype, value):
    for memory_format in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(torch.randn(4, 3, 5, 5).to(dtype).to(memory_format=memory_format))
        weight.grad = torch.randn(4, 3, 5, 5).to(dtype)
        mask = torch.rand(4, 3, 5, 5) < 0.3
        weight.data[~mask], weight.grad[~mask] = value, value
        before, gradient = weight.detach().clone(), weight.grad.clone()
        bound = BoundMasks(Masks({"w": mask}), {"w": weight})
        bound.mask_gradients_()
        bound.mask_weights_()
        for masked, old in ((weight.detach(), before), (weight.grad, gradient)):
            assert torch.equal(masked[mask], old[mask])
            assert masked[~mask].count_nonzero() == 0
            assert not torch.signbit(torch.view_as_real(masked) if dtype.is_complex else masked)[~mask].any()


# Without Lightning


def loop(network, optimizer, steps=30):
    for _ in range(steps):
        F.cross_entropy(network(torch.randn(8, 6)), torch.arange(8) % 3).backward()
        optimizer.step()
        optimizer.zero_grad()


def pruned_network():
    network = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))
    return network, prune(network, Random(), sparsity=0.8)


def test_masks_that_are_held_act_on_every_optimizer_of_the_network_and_on_no_other():
    (network, masks), (other, _) = pruned_network(), pruned_network()
    held = MaskedWeights(network)
    held.hold(masks)
    parameters = dict(network.named_parameters())
    for made in (partial(torch.optim.AdamW, lr=0.1), OPTIMIZERS["Lookahead"], OPTIMIZERS["Prodigy"]):
        loop(network, made(network.parameters()))
        assert masks.revived(parameters) == {}
    loop(other, torch.optim.SGD(other.parameters(), lr=0.1))
    assert all(int(p.count_nonzero()) == p.numel() for p in other.parameters())


def test_a_closure_without_lightning_computes_masked_gradients():
    network, masks = pruned_network()
    held = MaskedWeights(network)
    held.hold(masks)
    optimizer = torch.optim.LBFGS(network.parameters(), line_search_fn="strong_wolfe")
    inputs = torch.randn(8, 6)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(network(inputs), torch.arange(8) % 3)
        loss.backward()
        return loss

    before = float(closure().detach())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(closure)
        optimizer.step(closure=closure)
    assert float(closure().detach()) < before
    assert masks.revived(dict(network.named_parameters())) == {}


def test_nobody_listens_any_more_once_the_masks_are_let_go():
    gc.collect()
    before = len(_listeners)
    network, masks = pruned_network()
    held = MaskedWeights(network)
    held.hold(masks)
    twin = copy.deepcopy(held)
    assert len(_listeners) == before + 2
    hooks = len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)
    loop(twin.network, torch.optim.SGD(twin.network.parameters(), lr=0.1))
    assert masks.revived(twin.parameters) == {}
    del held, twin, network
    gc.collect()
    assert len(_listeners) == before
    assert (len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)) == hooks


def test_a_network_that_its_masks_no_longer_fit_leaves_the_training_of_others_alone():
    broken = MaskedWeights(pruned_network()[0])
    broken.hold(prune(broken.network, Random(), sparsity=0.8))
    copied = copy.deepcopy(broken)
    for held in (broken, copied):
        held.network[0] = nn.Linear(6, 30)
    other, masks = pruned_network()
    masks.apply_(dict(other.named_parameters()))
    loop(other, torch.optim.SGD(other.parameters(), lr=0.1))
    for held in (broken, copied):
        with pytest.raises(InputError, match=r"0\.weight \(mask \(20, 6\), weights \(30, 6\)\)"):
            held.keep()


def test_a_copy_of_a_module_that_holds_its_own_masks_keeps_them():
    run = Trained(Small, DATA, loss=loss_of)
    twin = copy.deepcopy(run.module)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    loss_of(twin, next(iter(DATA))).backward()
    optimizer.step()
    assert MaskedWeights.of(twin).network is twin
    assert run.masks.revived(dict(twin.named_parameters())) == {}


def test_a_parameter_of_another_shape_in_the_place_of_a_pruned_one_is_refused():
    run = Trained(Small, DATA, loss=loss_of)
    run.module.network[1] = nn.Linear(48, 20)
    with pytest.raises(Exception, match=r"network\.1\.weight \(mask \(16, 48\), weights \(20, 48\)\)"):
        MaskedWeights.of(run.module).keep()


def test_masks_that_are_set_in_the_middle_of_training_act_from_then_on():
    network, masks = pruned_network()
    held = MaskedWeights(network)
    held.hold(masks)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    loop(network, optimizer)
    sparser = Masks({name: mask & (torch.rand(mask.shape) < 0.5) for name, mask in masks.items()})
    held.hold(sparser)
    with pytest.warns(UserWarning, match="SGD moves weights that have no gradient"):  # the momentum moves them
        loop(network, optimizer)
    assert sparser.revived(dict(network.named_parameters())) == {}
    assert sparser.kept < masks.kept


class Elsewhere(LateNoise):
    """Belongs to nobody's package of optimizers, and moves pruned weights from its third step on."""


def test_an_optimizer_of_others_that_begins_to_move_pruned_weights_late_moves_none_for_a_single_step():
    """Steps 1, 2, 4, 8, … are looked at, and this is the third."""
    network, masks = pruned_network()
    held = MaskedWeights(network)
    held.hold(masks)
    optimizer = Elsewhere(network.parameters(), lr=0.1)
    for _ in range(3):
        loop(network, optimizer, steps=1)
        assert masks.revived(held.parameters) == {}
    assert optimizer.steps == 3


def test_no_optimizer_is_blamed_for_what_moved_weights_before_its_step():
    """Before the fourth, after which it is looked at again, what leaves no trace has to be found."""
    network, masks = pruned_network()
    held = MaskedWeights(network)
    held.hold(masks)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loop(network, optimizer, steps=3)
    network[0].weight.data.add_(1.0)
    with pytest.warns(UserWarning, match=r"Pruned weights were not 0\.0 before an optimizer's step") as said:
        loop(network, optimizer, steps=1)
    assert len(said) == 1
    assert masks.revived(held.parameters) == {}


def test_an_optimizer_that_trains_nothing_but_what_has_replaced_the_pruned_weights_is_one_of_theirs():
    network = nn.Sequential(nn.Linear(6, 3))
    masks = prune(network, Random(), sparsity=0.5)
    held = MaskedWeights(network)
    held.hold(masks)
    network[0].weight = nn.Parameter(torch.ones(3, 6))
    with pytest.warns(UserWarning, match="Another parameter has taken the place"):
        loop(network, torch.optim.SGD([network[0].weight], lr=0.1), steps=1)
    assert torch.equal(network[0].weight != 0, masks["0.weight"])


def test_masks_may_be_deleted_while_an_optimizer_runs_through_its_hooks():
    """Garbage is collected at any moment, also between two hooks of a step."""
    network, masks = pruned_network()
    held, others = MaskedWeights(network), [MaskedWeights(nn.Linear(2, 2)) for _ in range(2)]
    held.hold(masks)

    def collect(optimizer, args, kwargs):
        others.clear()
        gc.collect()

    handle = register_optimizer_step_pre_hook(collect)
    others.append(MaskedWeights(nn.Linear(2, 2)))
    try:
        loop(network, torch.optim.SGD(network.parameters(), lr=0.1), steps=1)
    finally:
        handle.remove()
    assert others == []
    assert masks.revived(held.parameters) == {}


def test_a_copy_that_has_failed_leaves_the_training_of_others_alone():
    network = nn.Linear(6, 3)
    network.held = MaskedWeights(network)
    network.held.hold(prune(network, Random(), sparsity=0.5))
    network.lock = threading.Lock()  # which cannot be copied
    with pytest.raises(TypeError, match="lock") as caught:
        copy.deepcopy(network)
    other = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    other(torch.ones(1, 2)).sum().backward()
    optimizer.step()  # the half-made copy lives on in the traceback
    assert caught.traceback


def test_a_network_that_is_gone_disturbs_nobody_although_a_traceback_keeps_its_listener():
    gone = MaskedWeights(nn.Linear(2, 2))
    gone.hold(Masks({"weight": torch.eye(2) > 0}))
    listener = gone._steps  # a traceback through an optimizer's step has it
    del gone
    gc.collect()
    other = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    other(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.step(lambda: other(torch.ones(1, 2)).sum())
    assert listener is not None
