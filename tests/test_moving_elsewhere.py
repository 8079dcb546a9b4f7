"""Masks that move under the training loops and the models of other packages."""

from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from lightning_fabric import Fabric
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from spl import MaskedWeights, MovingMasks, prune
from spl.criteria import Random
from spl.pruning.scopes import ERK
from spl.updates import GMP, SET, RigL

UPDATES = [partial(RigL, every=2), partial(SET, every=2), partial(GMP, 0.9, every=2)]


def hold(network):
    """Hold masks of sparsity 0.8."""
    held = MaskedWeights(network)
    held.hold(prune(network, Random(seed=0), sparsity=0.8, scope=ERK()))
    return held


def check(moving, kept, steps=8):
    """Check the number of updates and of kept weights after so many steps, and that the others are 0."""
    held, update = moving.held, moving.update
    assert moving.step == steps
    assert moving.updates == sum(update.is_due(step, steps) for step in range(steps)) > 0
    assert held.masks.revived(held.parameters) == {}
    if isinstance(update, GMP):
        assert held.masks.kept == round(0.1 * held.masks.size)
    else:
        assert held.masks.kept == kept
        assert moving.overlap() < 1.0


# The Trainer of Transformers


def sentences():
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(50, (64, 12), generator=generator)
    return [{"input_ids": row, "labels": k % 3} for k, row in enumerate(words)]


class Saved(TrainerCallback):
    """Save the masks in each checkpoint."""

    def __init__(self, held, moving):
        self.held, self.moving = held, moving

    def on_save(self, args, state, control, **_):
        state_dicts = {"masks": self.held.state_dict(), "moving": self.moving.state_dict()}
        torch.save(state_dicts, f"{args.output_dir}/checkpoint-{state.global_step}/masks.pt")


def bert(folder, update, resume_from=None, accumulate=1):
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=3, max_position_embeddings=16, **sizes))
    held = hold(model)
    kept = held.masks.kept
    moving = MovingMasks(held, update, steps=8)
    if resume_from:
        saved = torch.load(f"{resume_from}/masks.pt")
        held.load_state_dict(saved["masks"])
        moving.load_state_dict(saved["moving"])
    arguments = TrainingArguments(
        folder, max_steps=8, per_device_train_batch_size=4, gradient_accumulation_steps=accumulate, save_steps=5,
        use_cpu=True, report_to="none", disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=sentences(), callbacks=[Saved(held, moving)]).train(resume_from)
    check(moving, kept)
    return model, held


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.usefixtures("fresh_accelerate")
def test_a_run_of_transformers_that_is_resumed_is_the_one_that_was_not_interrupted(update, tmp_path):
    whole, held = bert(str(tmp_path), update())
    resumed, same = bert(str(tmp_path / "resumed"), update(), resume_from=str(tmp_path / "checkpoint-5"))
    assert held.masks == same.masks
    for (name, weight), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(weight, other), name


@pytest.mark.usefixtures("fresh_accelerate")
def test_transformers_with_accumulated_gradients(tmp_path):
    bert(str(tmp_path), RigL(every=2), accumulate=2)


# Loops of accelerate and Fabric


def batches(number):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 20, generator=generator), torch.arange(8) % 3) for _ in range(number)]


def mlp():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 3))
    return network, torch.optim.AdamW(network.parameters())


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("update", UPDATES)
def test_accelerate_counts_the_steps_of_accumulated_gradients_and_saves_the_masks(update, tmp_path):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)

    def train(start, end):
        for inputs, labels in batches(16)[2 * start : 2 * end]:
            with accelerator.accumulate(network):
                accelerator.backward(F.cross_entropy(network(inputs), labels))
                accelerator.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

    network, optimizer = accelerator.prepare(*mlp())
    held = hold(network)
    kept = held.masks.kept
    moving = MovingMasks(held, update(), steps=8)
    accelerator.register_for_checkpointing(held, moving)
    train(0, 5)
    accelerator.save_state(tmp_path)
    train(5, 8)
    check(moving, kept)
    masks, weights = held.masks, [p.detach().clone() for p in network.parameters()]
    accelerator.load_state(tmp_path)
    train(5, 8)
    check(moving, kept)
    assert held.masks == masks
    assert all(map(torch.equal, weights, network.parameters()))


@pytest.mark.parametrize("update", UPDATES)
def test_fabric(update):
    fabric = Fabric(accelerator="cpu", devices=1)
    network, optimizer = fabric.setup(*mlp())
    held = hold(network)
    kept = held.masks.kept
    moving = MovingMasks(held, update(), steps=8)
    for inputs, labels in batches(8):
        optimizer.zero_grad()
        fabric.backward(F.cross_entropy(network(inputs), labels))
        fabric.clip_gradients(network, optimizer, max_norm=1.0)
        optimizer.step()
    check(moving, kept)


# Models


def residual():
    return timm.create_model("resnet10t", num_classes=3)


def mixer():
    return timm.models.mlp_mixer.MlpMixer(num_classes=3, img_size=32, patch_size=16, embed_dim=32, num_blocks=1)


@pytest.mark.parametrize("make", [residual, mixer])
@pytest.mark.parametrize("update", UPDATES)
def test_models_of_other_packages(make, update):
    torch.manual_seed(1)
    network = make()
    held = hold(network)
    kept = held.masks.kept
    counts = {name: int(mask.sum()) for name, mask in held.masks.items()}
    moving = MovingMasks(held, update(), steps=8)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    for _ in range(8):
        optimizer.zero_grad()
        network(torch.randn(2, 3, 32, 32)).square().sum().backward()
        optimizer.step()
    check(moving, kept)
    if not isinstance(moving.update, GMP):
        assert counts == {name: int(mask.sum()) for name, mask in held.masks.items()}
