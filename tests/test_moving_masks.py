"""SET, RigL and GMP in plain loops: exact counts, clean optimizer states, and resumption bit for bit."""

import copy
import math
import random
from functools import partial

import pytest
import pytorch_optimizer
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor

from spl import InputError, MaskedWeights, Masks, MovingMasks, prune
from spl.criteria import Random
from spl.isometry import isometry_residual
from spl.pruning.patterns import NM, Blocks, Channels
from spl.pruning.scopes import ERK, Global, Uniform
from spl.updates import (
    GMP,
    SET,
    DropAndGrow,
    RigL,
    Snapshot,
    Update,
    at_random,
    constant,
    cosine,
    cubic,
    largest_gradient,
    smallest_magnitude,
)

TRUE, FALSE = True, False


def snapshot(kept, weights, gradients=None, step=1, end=1, first=None):
    """Return what an update sees of one layer."""
    masks = Masks({"w": torch.tensor(kept, dtype=torch.bool)})
    weights = torch.tensor(weights) * masks["w"]
    gradients = torch.zeros_like(weights) if gradients is None else torch.tensor(gradients)
    return Snapshot(masks, {"w": weights}, {"w": gradients}, first or masks, step, end)


# By hand


def test_the_smallest_magnitudes_are_dropped_first_and_of_equal_ones_that_of_the_lowest_index():
    update = DropAndGrow(smallest_magnitude, largest_gradient, constant, fraction=0.5)
    now = snapshot([1, 1, 1, 1, 0, 0, 0], [-0.5, 0.25, 2.0, -0.25, 0.0, 0.0, 0.0], [9.0, 9, 9, 9, 1, -3, 1])
    assert update.masks(now)["w"].tolist() == [TRUE, FALSE, TRUE, FALSE, TRUE, TRUE, FALSE]
    tied = snapshot([1, 1, 1, 1, 0], [1.0, 1.0, 1.0, 1.0, 0.0])
    update = DropAndGrow(smallest_magnitude, largest_gradient, constant, fraction=0.25)
    assert update.masks(tied)["w"].tolist() == [FALSE, TRUE, TRUE, TRUE, TRUE]


def test_no_more_is_dropped_than_can_grow():
    now = snapshot([1, 1, 1, 1, 0], [4.0, 3.0, 2.0, 1.0, 0.0])
    update = DropAndGrow(smallest_magnitude, largest_gradient, constant, fraction=1.0)
    assert update.masks(now)["w"].tolist() == [TRUE, TRUE, TRUE, FALSE, TRUE]
    full = snapshot([1, 1], [1.0, 2.0])
    assert update.masks(full) == Masks({})


def test_fractions():
    assert [constant(0.3, p) for p in (0.0, 1.0)] == [0.3, 0.3]
    assert [cosine(0.4, p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.4, 0.2, 0.0])
    assert cosine(0.3, 0.25) == pytest.approx(0.15 * (1 + math.sqrt(0.5)))


def test_cubic_sparsity():
    assert [cubic(0.5, 0.9, p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.5, 0.85, 0.9])


def test_set_grows_at_random_but_the_same_for_the_same_stream():
    now = snapshot([1] * 4 + [0] * 60, [1.0, 2.0, 3.0, 4.0] + [0.0] * 60)
    torch.manual_seed(0)
    first = SET(fraction=0.5).masks(now)["w"]
    assert first[:4].tolist() == [FALSE, FALSE, TRUE, TRUE]
    assert int(first[4:].sum()) == 2
    others = [SET(fraction=0.5).masks(now)["w"] for _ in range(5)]
    assert any(not torch.equal(first, other) for other in others)
    torch.manual_seed(0)
    assert torch.equal(SET(fraction=0.5).masks(now)["w"], first)
    assert at_random(now, "w").shape == (64,)


def test_rigl_moves_less_and_less():
    weights, gradients = torch.arange(1.0, 21).tolist() + [0.0] * 20, [0.0] * 20 + torch.arange(20.0).tolist()
    counts = []
    for step in (0, 50, 100):
        now = snapshot([1] * 20 + [0] * 20, weights, gradients, step, end=100)
        mask = RigL(fraction=0.5).masks(now).get("w", now.masks["w"])
        counts.append(int(mask[20:].sum()))
        assert mask[: counts[-1]].tolist() == [FALSE] * counts[-1]
        assert mask[40 - counts[-1] :].all()
    assert counts == [10, 5, 0]


def test_gmp_prunes_the_smallest_to_the_last_sparsity_at_the_last_update():
    start = Masks({"w": torch.ones(10, dtype=torch.bool)})
    weights = torch.arange(1.0, 11).tolist()
    update = GMP(0.8, every=10)
    halfway = update.masks(snapshot([1] * 10, weights, step=10, end=29, first=start))  # the last update is at 20
    assert halfway["w"].tolist() == [FALSE] * 7 + [TRUE] * 3
    last = update.masks(snapshot(halfway["w"].tolist(), weights, step=20, end=29, first=start))
    assert last["w"].tolist() == [FALSE] * 8 + [TRUE] * 2


def test_gmp_takes_scopes_and_patterns():
    torch.manual_seed(0)
    weights = {"a": torch.randn(8, 8), "b": torch.randn(4, 8)}
    dense = Masks({name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()})
    now = Snapshot(dense, weights, {}, dense, 10, 10)
    assert GMP(0.75, every=1, scope=Uniform()).masks(now).layer_sparsity() == {"a": 0.75, "b": 0.75}
    pairs = GMP(0.5, every=1, pattern=NM(2, 4)).masks(now)
    assert all((mask.view(-1, 4).sum(1) == 2).all() for mask in pairs.values())
    blocks = GMP(0.5, every=1, pattern=Blocks(4, 4)).masks(now)
    assert (blocks.kept, blocks["a"].unfold(0, 4, 4).unfold(1, 4, 4).flatten(2).float().mean(-1).unique().tolist()) == (
        48,
        [0.0, 1.0],
    )
    rows = GMP(0.5, every=1, pattern=Channels()).masks(now)
    assert all(mask.all(1).logical_or(~mask.any(1)).all() for mask in rows.values())


def test_gmp_leaves_to_other_layers_what_the_scope_grants_to_pruned_weights():
    torch.manual_seed(0)
    weights = {"a": torch.randn(10, 10), "b": torch.randn(10, 10)}
    masks = Masks({"a": torch.rand(10, 10) < 0.1, "b": torch.ones(10, 10, dtype=torch.bool)})
    weights["a"] *= masks["a"]
    found = GMP(0.7, every=1, scope=Uniform()).masks(Snapshot(masks, weights, {}, masks, 10, 10))
    assert found.kept == 60
    assert torch.equal(found["a"], masks["a"])


class OwnGlobal(Global):
    """A scope of which GMP knows nothing."""


def test_gmp_finds_by_any_scope_what_it_finds_faster_by_global_magnitudes():
    torch.manual_seed(0)
    weights = {"a": torch.randn(30, 20).round(decimals=1), "b": torch.randn(20, 30).round(decimals=1)}  # with ties
    masks = Masks({name: torch.rand(w.shape) < 0.4 for name, w in weights.items()})
    weights = {name: w * masks[name] for name, w in weights.items()}
    now = Snapshot(masks, weights, {}, masks, 10, 10)
    for sparsity in (0.61, 0.8, 0.99):
        found = GMP(sparsity, every=1).masks(now)
        assert found == GMP(sparsity, every=1, scope=OwnGlobal()).masks(now)
        assert found.kept == round(1200 * (1 - sparsity))


def test_steps_at_which_updates_are_due():
    assert [t for t in range(20) if RigL(every=4, until=0.75).is_due(t, 20)] == [4, 8, 12]
    assert [t for t in range(20) if SET(every=5).is_due(t, 20)] == [5, 10, 15]
    assert RigL(every=1, until=0.29).last_step(100) == 29


# Properties


@settings(max_examples=25)
@given(
    kept=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=1, max_size=4),
    fraction=st.floats(0.01, 1.0),
    update=st.sampled_from([SET, RigL]),
    seed=st.integers(0, 2**31),
    ties=st.booleans(),
)
def test_layers_keep_their_counts_and_nothing_dropped_grows_back(kept, fraction, update, seed, ties):
    torch.manual_seed(seed)
    masks, weights, gradients = {}, {}, {}
    for number, (some, more) in enumerate(kept):
        masks[f"{number}"] = torch.randperm(some + more) < some
        weights[f"{number}"] = torch.randn(some + more) * masks[f"{number}"]
        gradients[f"{number}"] = torch.zeros(some + more) if ties else torch.randn(some + more)
    masks["all"], weights["all"], gradients["all"] = torch.ones(5, dtype=torch.bool), torch.ones(5), torch.ones(5)
    now = Snapshot(Masks(masks), weights, gradients, Masks(masks), 0, 10)
    found = update(fraction=fraction).masks(now)
    assert "all" not in found
    for name, mask in found.items():
        alive = int(masks[name].sum())
        count = min(round(fraction * alive), mask.numel() - alive)
        assert int(mask.sum()) == alive
        assert int((mask & ~masks[name]).sum()) == int((masks[name] & ~mask).sum()) == count


@settings(max_examples=20)
@given(
    density=st.floats(0.2, 1.0),
    sparsity=st.floats(0.8, 0.97),
    scope=st.sampled_from([Global(), Uniform(), ERK()]),
    seed=st.integers(0, 2**31),
)
def test_gmp_is_nested_and_exact(density, sparsity, scope, seed):
    torch.manual_seed(seed)
    weights = {"a": torch.randn(12, 10), "b": torch.randn(7, 12), "c": torch.randn(9)}
    first = masks = Masks({name: torch.rand(w.shape) < density for name, w in weights.items()})
    update = GMP(sparsity, every=2, scope=scope)
    for step in (2, 4, 6, 8):
        weights = {name: torch.randn(w.shape) * masks[name] for name, w in weights.items()}
        found = update.masks(Snapshot(masks, weights, {}, first, step, 9))
        assert all(not bool((mask & ~masks[name]).any()) for name, mask in found.items())
        wanted = round(first.size * (1 - cubic(first.sparsity, sparsity, step / 8)))
        assert found.kept == min(masks.kept, max(wanted, round(first.size * (1 - sparsity))))
        masks = found


# Loops


SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=0.01)
UPDATES = {"SET": SET(every=3), "RigL": RigL(every=2), "GMP": GMP(0.95, every=3)}


class Loop:
    """A plain loop over its own batches, which can be stopped and resumed at any step."""

    def __init__(self, update, optimizer=SGD, steps=40, state=None, prunes_biases=False, isometric=False):
        torch.manual_seed(0 if state is None else 5)
        self.network = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
        self.held = MaskedWeights(self.network)
        self.optimizer = optimizer(self.network.parameters())
        if state is None:
            self.held.hold(prune(self.network, Random(seed=1), sparsity=0.7, include_bias=prunes_biases))
        else:
            self.network.load_state_dict(state["network"])
            self.held.load_state_dict(state["masks"])
            self.optimizer.load_state_dict(state["optimizer"])
        self.moving = MovingMasks(self.held, update, steps, isometric=isometric)
        if state is not None:
            self.moving.load_state_dict(state["moving"])
        generator = torch.Generator().manual_seed(3)
        self.inputs = torch.randn(steps, 8, 20, generator=generator)
        self.labels = torch.randint(5, (steps, 8), generator=generator)

    def backward(self, step):
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.network(self.inputs[step]), self.labels[step])
        loss.backward()
        return loss

    def run(self, until=40):
        for step in range(self.moving.step, until):
            self.backward(step)
            self.optimizer.step()
            assert self.held.masks.revived(self.held.parameters) == {}
            assert self.moving.step == step + 1
        return self

    def state(self):
        parts = {"network": self.network, "masks": self.held, "optimizer": self.optimizer, "moving": self.moving}
        return copy.deepcopy({name: part.state_dict() for name, part in parts.items()})

    def momenta(self):
        """Return all state in the shape of its parameter, by name."""
        found = {}
        for name, p in self.held.parameters.items():
            for key, value in self.optimizer.state[p].items():
                if isinstance(value, torch.Tensor) and value.shape == p.shape:
                    found[name, key] = value
        return found


def residuals(loop):
    """Return the residual of each weight matrix, relative to the size that its singular values have."""
    weights = {name: p.detach() for name, p in loop.held.parameters.items() if p.ndim > 1}
    return {
        n: float(isometry_residual(w, float(w.norm()) / min(w.shape) ** 0.5) / w.norm() ** 2)
        for n, w in weights.items()
    }


def test_weights_can_start_where_they_keep_their_layer_near_isometry():
    after = {}
    for isometric in (False, True):
        loop = Loop(RigL(every=4, fraction=0.3), steps=12, isometric=isometric).run(4)
        before = {name: p.detach().clone() for name, p in loop.held.parameters.items()}
        masks = loop.held.masks
        loop.backward(4)
        loop.held.mask_gradients_(loop.optimizer)  # which moves the masks, before the step
        assert loop.moving.updates == 1
        for name, mask in loop.held.masks.items():
            stayed, grown, now = mask & masks[name], mask & ~masks[name], loop.held.parameters[name]
            assert torch.equal(now[stayed], before[name][stayed])
            assert bool(now[grown].any()) == isometric
            assert not now[~mask].any()
        after[isometric] = residuals(loop)
    assert all(after[True][name] < after[False][name] for name in after[True])


def test_isometric_starts_are_the_same_after_a_resume(tmp_path):
    whole = Loop(SET(every=3), steps=12, isometric=True).run(5)
    torch.save(whole.state(), tmp_path / "5.pt")
    state = torch.load(tmp_path / "5.pt", weights_only=True)
    again = Loop(SET(every=3), steps=12, state=state, isometric=True)
    pairs = zip(whole.run(12).network.parameters(), again.run(12).network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["SGD", "Adam"])
@pytest.mark.parametrize("name", UPDATES)
def test_a_loop_that_is_killed_anywhere_goes_on_as_if_it_was_not(name, optimizer, tmp_path):
    whole = Loop(UPDATES[name], optimizer, steps=24)
    stops = sorted(random.Random(name).sample(range(1, 24), 20))
    for stop in stops:
        torch.save(whole.run(stop).state(), tmp_path / f"{stop}.pt")
    whole.run(24)
    assert whole.moving.updates >= 6
    for stop in stops:
        state = torch.load(tmp_path / f"{stop}.pt", weights_only=True)
        resumed = Loop(UPDATES[name], optimizer, 24, state).run(24)
        assert resumed.held.masks == whole.held.masks
        assert resumed.moving.active == whole.moving.active
        assert resumed.moving.first == whole.moving.first
        assert all(
            torch.equal(a, b) for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True)
        )


def test_counts_hold_in_each_layer_and_gmp_ends_at_its_sparsity():
    for update in (SET(every=3), RigL(every=3)):
        loop = Loop(update)
        before = loop.held.masks
        loop.run()
        assert loop.held.masks.layer_sparsity() == before.layer_sparsity()
        assert loop.held.masks != before
        assert loop.moving.first == before
        assert loop.moving.overlap() < 1
        assert before.kept < loop.moving.active.kept
    loop = Loop(GMP(0.95, every=3)).run()
    assert (loop.held.masks.kept, loop.moving.overlap(), loop.moving.active) == (38, 1.0, loop.moving.first)


def test_biases_move_like_weights():
    loop = Loop(SET(every=3), prunes_biases=True)
    before = loop.held.masks
    loop.run()
    assert not torch.equal(before["0.bias"], loop.held.masks["0.bias"])
    assert loop.held.masks.layer_sparsity() == before.layer_sparsity()


def test_seeds_decide_random_growth():
    def ended(seed):
        loop = Loop(SET(every=3))
        loop.moving = MovingMasks(loop.held, SET(every=3), 40, seed=seed)
        return loop.run().held.masks

    assert ended(1) == ended(1) != ended(2)


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD,
        ADAM,
        partial(torch.optim.AdamW, lr=0.01, amsgrad=True, fused=True),
        partial(torch.optim.RMSprop, lr=0.01, momentum=0.9, centered=True, foreach=True),
        partial(pytorch_optimizer.Lion, lr=0.01),
    ],
    ids=["SGD", "Adam", "fused AMSGrad", "RMSprop", "Lion"],
)
def test_the_optimizer_forgets_what_comes_and_goes(optimizer):
    class Look(RigL):
        def masks(self, now):
            found = super().masks(now)
            self.grown = {name: mask & ~now.masks[name] for name, mask in found.items()}
            return found

    update = Look(every=4)
    loop = Loop(update, optimizer).run(4)
    steady = loop.momenta()
    assert steady
    before = {key: value.clone() for key, value in steady.items()}
    loop.backward(4)
    seen = {}
    loop.optimizer.register_step_pre_hook(lambda *_: seen.update({k: v.clone() for k, v in loop.momenta().items()}))
    loop.optimizer.step()
    assert loop.moving.updates == 1
    assert any(mask.any() for mask in update.grown.values())
    for (name, key), value in loop.momenta().items():
        if name in loop.held.masks:
            mask = loop.held.masks[name]
            assert bool((value[~mask] == 0).all()), (name, key)
            assert bool((before[name, key][update.grown[name]] == 0).all())
    assert loop.held.masks.revived(loop.held.parameters) == {}


def test_complex_weights():
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, bias=False, dtype=torch.complex64)
    held = MaskedWeights(layer)
    held.hold(prune(layer, Random(seed=0), sparsity=0.5))
    moving = MovingMasks(held, RigL(every=1), 10)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(6):
        optimizer.zero_grad()
        layer(torch.randn(3, 6, dtype=torch.complex64)).abs().sum().backward()
        optimizer.step()
        assert held.masks.revived(held.parameters) == {}
        assert not optimizer.state[layer.weight]["exp_avg"][~held.masks["weight"]].any()
    assert (moving.updates, held.masks.kept) == (5, 12)


def test_weights_that_grow_start_at_zero_and_train_at_once():
    loop = Loop(RigL(every=2), partial(torch.optim.SGD, lr=0.5)).run(2)
    before = loop.held.masks
    loop.backward(2)
    gradients = {name: p.grad.clone() for name, p in loop.held.parameters.items()}
    loop.optimizer.step()
    for name, mask in loop.held.masks.items():
        grown = mask & ~before[name]
        assert grown.any()
        assert torch.equal(loop.held.parameters[name][grown], -0.5 * gradients[name][grown])
        assert gradients[name][grown].abs().min() >= gradients[name][~mask & ~before[name]].abs().max()


def test_an_update_waits_for_numbers_that_are_finite():
    loop = Loop(RigL(every=4)).run(4)
    before = loop.held.masks
    loop.backward(4)
    weight = loop.network[0].weight
    weight.grad[~before["0.weight"]] = torch.inf  # masked before the step
    loop.optimizer.step()
    assert (loop.moving.updates, loop.held.masks, loop.moving.step) == (0, before, 5)
    state = loop.state()
    loop = Loop(RigL(every=4), state=state).run(6)
    assert loop.moving.updates == 1
    assert loop.run(9).moving.updates == 2


def test_steps_that_a_scaler_skips_do_not_count():
    loop = Loop(RigL(every=2)).run(2)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for infinite in (True, False):
        loop.optimizer.zero_grad()
        scaler.scale(F.cross_entropy(loop.network(loop.inputs[2]), loop.labels[2])).backward()
        if infinite:
            loop.network[0].weight.grad[0, 0] = torch.inf
        scaler.step(loop.optimizer)
        scaler.update()
        assert (loop.moving.step, loop.moving.updates) == ((2, 0) if infinite else (3, 1))


@pytest.mark.filterwarnings("ignore:.*pruned ones are set back to 0.0", "ignore:Pruned weights were not 0.0")
@pytest.mark.parametrize("name", ["LBFGS", "SAM", "Lookahead"])
def test_optimizers_that_compute_the_gradients_several_times_move_masks_once_a_step(name):
    make = {
        "LBFGS": partial(torch.optim.LBFGS, lr=0.1, max_iter=3),
        "SAM": lambda p: pytorch_optimizer.SAM(p, base_optimizer=torch.optim.SGD, lr=0.05, momentum=0.9),
        "Lookahead": lambda p: pytorch_optimizer.Lookahead(torch.optim.SGD(p, lr=0.1, momentum=0.9), k=2),
    }[name]
    loop = Loop(RigL(every=2), make, steps=12)
    before = loop.held.masks
    for step in range(12):

        def closure(step=step):
            return loop.backward(step)

        if name == "SAM":
            loop.backward(step)
        if name == "Lookahead":
            loop.backward(step)
            loop.optimizer.step()
        else:
            loop.optimizer.step(closure)
        assert loop.moving.step == step + 1
        assert loop.held.masks.revived(loop.held.parameters) == {}
    assert loop.moving.updates == 4
    assert loop.held.masks.layer_sparsity() == before.layer_sparsity()


def test_two_optimizers_are_refused():
    loop = Loop(SET(every=2), lambda p: torch.optim.SGD([*p][:2], lr=0.1))
    other = torch.optim.Adam(loop.network[2].parameters())
    loop.backward(0)
    loop.optimizer.step()
    with pytest.raises(InputError, match=r"SGD and another optimizer, Adam, both train weights with masks.* exclude"):
        other.step()


def test_an_optimizer_of_other_weights_neither_counts_nor_spends_the_gradients():
    loop = Loop(RigL(every=1))
    elsewhere = nn.Linear(2, 2)
    other = torch.optim.SGD(elsewhere.parameters(), lr=0.1)
    for step in range(3):
        loop.backward(step)
        other.step()
        loop.held.mask_gradients_(other if step % 2 else None)  # between two backward passes, say
        loop.optimizer.step()
    assert (loop.moving.step, loop.moving.updates) == (3, 2)
    assert loop.moving.active.kept > loop.held.masks.kept


@pytest.mark.parametrize("update", [SET(every=2), RigL(every=2)])
@pytest.mark.parametrize("frozen_by", ["requires_grad", "the optimizer"])
def test_layers_that_nothing_trains_rest(update, frozen_by):
    loop = Loop(update, lambda p: torch.optim.SGD([*p][2 if frozen_by == "the optimizer" else 0 :], lr=0.1))
    weight, masks = loop.network[0].weight.detach().clone(), loop.held.masks
    loop.backward(0)
    loop.network[0].requires_grad_(frozen_by == "the optimizer")  # its gradients are left over in either case
    loop.run(6)
    assert loop.moving.updates == 2
    assert torch.equal(loop.network[0].weight, weight)
    assert torch.equal(loop.held.masks["0.weight"], masks["0.weight"])
    assert not torch.equal(loop.held.masks["2.weight"], masks["2.weight"])


class Reverse(Update):
    def masks(self, now):
        return Masks({"2.weight": now.masks["2.weight"].flip(1)})


def test_an_update_of_ones_own():
    loop = Loop(Reverse(every=5, until=0.5))
    before = loop.held.masks
    loop.run(6)
    assert torch.equal(loop.held.masks["2.weight"], before["2.weight"].flip(1))
    assert torch.equal(loop.held.masks["0.weight"], before["0.weight"])

    class Wrong(Update):
        def masks(self, now):
            return Masks({"fc": torch.tensor([True])})

    with pytest.raises(InputError, match="Wrong returned masks of fc, which had none"):
        Loop(Wrong(every=1)).run(3)


def test_masks_that_rest_again():
    loop = Loop(SET(every=2)).run(3)
    assert loop.moving.updates == 1
    loop.moving.stop()
    loop.moving.stop()
    masks = loop.held.masks
    loop.backward(3)
    loop.optimizer.step()
    loop.backward(4)
    loop.optimizer.step()
    assert loop.held.masks == masks


def test_a_copy_of_the_network_has_masks_that_rest():
    loop = Loop(SET(every=2))
    assert copy.deepcopy(loop.held).mover is None
    assert loop.held.mover is loop.moving


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RigL(every=0), "every must be at least 1, got 0"),
        (lambda: SET(until=1.5), r"until must lie in \(0, 1\], got 1.5"),
        (lambda: RigL(fraction=0.0), r"fraction must lie in \(0, 1\], got 0.0"),
        (lambda: GMP(1.0), r"sparsity must lie in \[0, 1\)"),
        (lambda: GMP(pattern=Channels(coupled=True)), "GMP cannot prune coupled channels"),
        (lambda: SET().check_pattern(NM(2, 4)), "SET moves single weights.* the pattern NM"),
        (lambda: RigL().check_pattern(Blocks()), "RigL moves single weights.* the pattern Blocks"),
        (lambda: Loop(GMP(0.5)), "The masks have sparsity 0.7 already, and GMP prunes to 0.5"),
        (lambda: Loop(GMP(0.9, pattern=NM(2, 5))), "2:5 keeps 2 of every 5 weights"),
        (lambda: MovingMasks(MaskedWeights(nn.Linear(2, 2)), SET(), 10), "hold masks first"),
        (lambda: Loop(SET(), steps=0), "steps must be at least 1, got 0"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_weights_that_are_sharded_are_refused(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        layer = nn.Linear(4, 4)
        layer.weight = nn.Parameter(
            distribute_tensor(layer.weight.detach(), init_device_mesh("cpu", (1,)), [Replicate()])
        )
        held = MaskedWeights(layer)
        held.hold(Masks({"weight": torch.eye(4, dtype=torch.bool)}))
        with pytest.raises(InputError, match="weight: sharded over processes"):
            MovingMasks(held, SET(), 10)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("damage", [{"step": "3"}, {"first": None}, {"active": {"0.weight": torch.ones(3)}}])
def test_a_state_that_is_none_is_refused(damage):
    loop = Loop(SET(every=2)).run(3)
    with pytest.raises(InputError, match=r"not the state of masks that move|must be a bool tensor"):
        loop.moving.load_state_dict(loop.moving.state_dict() | damage)
    with pytest.raises(InputError, match="do not fit the network"):
        loop.moving.load_state_dict(loop.moving.state_dict() | {"first": {"fc": torch.tensor([True])}})
