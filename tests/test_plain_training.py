"""Masks that are held without Lightning's Trainer: wrappers, their names, checkpoints, and what is refused."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy

from spl import InputError, MaskedWeights, Masks, diagnose, prune, sparsify
from spl.criteria import ConnectionSensitivity, Magnitude
from spl.export import compact, load_sparse, save_sparse
from spl.functional.wrappers import named_without_wrappers, unwrapped
from spl.isometry import ApproximateIsometry

pytestmark = pytest.mark.filterwarnings("ignore:Layer collapse")
BATCHES = [
    (torch.randn(16, 8, generator=torch.Generator().manual_seed(k)), (torch.arange(16) + k) % 3) for k in range(4)
]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


def trained(model, optimizer=None, backward=torch.Tensor.backward):
    """Train for a few steps with weight decay and momentum, and return the module."""
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for inputs, labels in BATCHES * 2:
        optimizer.zero_grad()
        backward(cross_entropy(model(inputs), labels))
        optimizer.step()
    return model


def held_by(model, sparsity=0.8):
    held = MaskedWeights(model)
    held.hold(sparsify(model, ConnectionSensitivity(), sparsity, BATCHES).masks)
    return held


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def compiled(model):
    return torch.compile(model, backend="eager")


def distributed(model):
    return nn.parallel.DistributedDataParallel(model)


def in_fabric(name):
    def setup(model):
        fabric = pytest.importorskip(name).Fabric(accelerator="cpu", devices=1)
        return fabric.setup_module(model)

    return setup


WRAPPERS = {
    "compile": compiled,
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": distributed,
    "both": lambda model: compiled(distributed(model)),
    "lightning.fabric": in_fabric("lightning.fabric"),
    "lightning_fabric": in_fabric("lightning_fabric"),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapped_network_is_pruned_as_the_network_inside_and_keeps_its_zeros(wrap, one_process):
    plain = network()
    masks = prune(plain, ConnectionSensitivity(), 0.8, BATCHES)
    model = wrap(network())
    assert unwrapped(model) is not model
    assert prune(model, ConnectionSensitivity(), 0.8, BATCHES) == masks
    sparse = sparsify(model, ConnectionSensitivity(), 0.8, BATCHES, ApproximateIsometry())
    sparsify(plain, ConnectionSensitivity(), 0.8, BATCHES, ApproximateIsometry())
    assert sparse.masks == masks
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True))

    held = MaskedWeights(model)
    held.hold(sparse.masks)
    trained(model)
    assert masks.revived(dict(model.named_parameters())) == {}
    assert not torch.equal(unwrapped(model)[0].weight, plain[0].weight)
    del held  # nothing holds any more
    trained(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert masks.revived(dict(model.named_parameters()))


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_network_may_be_wrapped_after_its_masks_are_held(wrap, one_process):
    model = network()
    held = held_by(model)
    wrapped = trained(wrap(model))
    assert held.masks.revived(dict(wrapped.named_parameters())) == {}


def test_a_wrapped_network_is_diagnosed_corrected_and_exported_as_the_network_inside(tmp_path):
    inputs, labels = BATCHES[0]
    plain, model = network(), compiled(network())
    masks = prune(plain, Magnitude(), 0.5)
    assert ApproximateIsometry()(plain, masks) == ApproximateIsometry()(model, masks)
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), model.parameters(), strict=True))
    assert diagnose(plain, masks, inputs, labels) == diagnose(model, masks, inputs, labels)
    compacted = compact(model, masks, inputs).network
    torch.testing.assert_close(compacted(inputs), plain(inputs))
    save_sparse(tmp_path / "kept.pt", model.state_dict(), masks)
    model.load_state_dict(load_sparse(tmp_path / "kept.pt"))


def test_masks_with_the_names_of_a_wrapper_are_held_by_the_names_of_the_network():
    model = compiled(network())
    masks = prune(model, Magnitude(), 0.8)
    prefixed = Masks({f"module._orig_mod.{name}": mask for name, mask in masks.items()})
    prefixed.apply_(dict(model.named_parameters()))
    held = MaskedWeights(model)
    held.hold(prefixed)
    assert held.masks == masks
    assert prefixed.revived(dict(network().named_parameters())).keys() == prefixed.keys()


def test_prefixes_lead_to_no_parameter_that_they_do_not_name():
    pair = {"module.fc.weight": 1, "_orig_mod.fc.weight": 2, "module.fc9.weight": 3, "net.module.fc8.weight": 4}
    assert named_without_wrappers(["fc.weight", "fc8.weight"], pair) == {}
    assert named_without_wrappers(["module.fc.weight", "fc9.weight"], pair) == {"module.fc.weight": 1, "fc9.weight": 3}


def test_a_layer_that_is_compiled_or_checkpointed_inside_keeps_its_zeros():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = network()
    model[0], model[2] = compiled(model[0]), checkpoint_wrapper(model[2])
    held = held_by(model)
    trained(model)
    assert held.masks.revived(dict(model.named_parameters())) == {}
    assert not held._binding.replaced()
    later = network()
    held = held_by(later)
    later[0] = compiled(later[0])
    trained(later)
    assert held.masks.revived(dict(later.named_parameters())) == {}


def test_checkpoints_of_a_plain_loop_bring_back_the_masks(tmp_path):
    model = network()
    held = held_by(model)
    trained(model)
    torch.save({"model": model.state_dict(), "masks": held.state_dict()}, tmp_path / "last.pt")
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    for order in (("model", "masks"), ("masks", "model")):
        torch.manual_seed(9)
        fresh = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
        again = MaskedWeights(fresh)
        for part in order:
            {"model": fresh, "masks": again}[part].load_state_dict(saved[part])
        assert again.masks == held.masks
        assert all(torch.equal(p, q) for p, q in zip(fresh.parameters(), model.parameters(), strict=True))
        trained(fresh)
        assert held.masks.revived(dict(fresh.named_parameters())) == {}


def test_a_network_without_masks_has_an_empty_state():
    held = MaskedWeights(network())
    assert held.state_dict() == {}
    pruned = held_by(network())
    pruned.load_state_dict({})
    assert pruned.masks is None
    trained(pruned.network)
    assert pruned.network[0].weight.all()


def with_mask(state, name, mask):
    return state | {"masks": state["masks"] | {name: mask}}


def renamed(state):
    return state | {"masks": {f"net.{name}": mask for name, mask in state["masks"].items()}}


BROKEN = {
    "another shape": (lambda s: with_mask(s, "0.weight", torch.ones(3, 3) > 0), r"0\.weight \(mask \(3, 3\), weights"),
    "another name": (renamed, r"net\.0\.weight \(no such parameter\)"),
    "a number as a name": (lambda s: with_mask(s, 3, torch.ones(3, 3) > 0), r"3 \(no such parameter\)"),
    "floats": (lambda s: with_mask(s, "0.weight", torch.ones(16, 8)), "must be a bool tensor, got torch.float32"),
    "no tensor": (lambda s: with_mask(s, "0.weight", [True]), "must be a bool tensor, got list"),
    "other bits": (lambda s: with_mask(s, "0.weight", ~s["masks"]["0.weight"]), "not those that were saved with it"),
    "no digest": (lambda s: {"masks": s["masks"]}, "have no digest"),
    "no masks": (lambda s: {"model": {}}, "not the masks of a network"),
    "masks alone": (lambda s: s["masks"], "not the masks of a network"),
    "a list": (lambda s: [s], "not the masks of a network"),
    "nothing": (lambda s: None, "not the masks of a network"),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN)
def test_states_that_are_not_those_that_were_saved_are_refused_and_nothing_is_changed(damage, message):
    held = held_by(network())
    before = [p.detach().clone() for p in held.network.parameters()]
    masks = held.masks
    with pytest.raises(InputError, match=message):
        held.load_state_dict(damage(held_by(network(), 0.6).state_dict()))
    assert held.masks is masks
    assert all(torch.equal(p, q) for p, q in zip(held.network.parameters(), before, strict=True))


def test_what_is_written_to_pruned_weights_is_undone_before_masks_are_saved():
    held = held_by(network())
    with torch.no_grad():
        held.network[0].weight.add_(1.0)
    with pytest.warns(UserWarning, match="not 0.0 when the masks were saved"):
        held.state_dict()
    assert held.masks.revived(held.parameters) == {}


def test_weights_that_are_sharded_are_refused_and_held_masks_follow_when_they_are_sharded(one_process):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    sharded = fully_shard(network(), mesh=mesh)
    with pytest.raises(InputError, match=r"0\.weight, 2\.weight: sharded already, .* Prune the network and hold"):
        sparsify(sharded, Magnitude(), 0.8)
    model = network()
    held = held_by(model)
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    trained(model)
    assert held.masks.revived(dict(model.named_parameters())) == {}


def test_gradient_scaling_with_clipping():
    model = network()
    held = held_by(model)
    optimizer, scaler = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=0.01), torch.amp.GradScaler("cpu")
    for inputs, labels in BATCHES * 2:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = cross_entropy(model(inputs), labels)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    assert held.masks.revived(held.parameters) == {}


def test_a_compiled_step_of_the_optimizer():
    model = network()
    held = held_by(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    step = compiled(optimizer.step)
    for inputs, labels in BATCHES:
        optimizer.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        step()
    assert held.masks.revived(held.parameters) == {}


def test_optimizers_that_step_during_the_backward_pass():
    model = network()
    held = held_by(model)
    optimizers = {p: torch.optim.AdamW([p], lr=0.01, weight_decay=0.1) for p in model.parameters()}

    def step(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    for inputs, labels in BATCHES:
        cross_entropy(model(inputs), labels).backward()
    assert held.masks.revived(held.parameters) == {}


def test_an_average_that_begins_after_pruning_has_the_zeros():
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    model = network()
    held = held_by(model)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(3):
        average.update_parameters(trained(model))
    assert held.masks.revived(dict(average.module.named_parameters())) == {}


def test_updates_without_an_optimizer_are_undone_when_masks_are_kept_by_hand():
    model = network()
    held = held_by(model)
    cross_entropy(model(BATCHES[0][0]), BATCHES[0][1]).backward()
    for parameter in model.parameters():
        parameter.data -= 0.1 * parameter.grad
    with pytest.warns(UserWarning, match="are set back to 0.0"):
        held.keep()
    assert held.masks.revived(held.parameters) == {}


def test_weights_in_a_dictionary_are_masked_by_name():
    model = network()
    held = held_by(model)
    weights = {name: p.detach() for name, p in copy.deepcopy(model).named_parameters()}
    inputs, labels = BATCHES[0]
    changes = torch.func.grad(lambda w: cross_entropy(torch.func.functional_call(model, w, inputs), labels))(weights)
    weights = {name: weight - 0.1 * changes[name] for name, weight in weights.items()}
    assert held.masks.revived(weights)
    held.masks.apply_(weights)
    assert held.masks.revived(weights) == {}


def test_an_optimizer_of_accelerate_under_accumulation_and_mixed_precision(fresh_accelerate):
    import accelerate

    model = network()
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=0.1))
    held = held_by(model)
    for inputs, labels in BATCHES * 2:
        with accelerator.accumulate(model):
            accelerator.backward(cross_entropy(model(inputs), labels))
            optimizer.step()
            optimizer.zero_grad()
    assert held.masks.revived(held.parameters) == {}
