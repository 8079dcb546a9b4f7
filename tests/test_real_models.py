"""PruneAtInit on common models."""

from copy import deepcopy

import pytest
import pytorch_lightning as L
import torch
import torch.nn.functional as F
from foreign import Plain, Trained, batches, images, invariants
from torch import nn
from torchvision.models import VisionTransformer, resnet18, vit_b_16

from spl import JacobianSpectrum, prune
from spl.criteria import Magnitude
from spl.isometry import ApproximateIsometry
from spl.pruning import keep_count


def test_resnet18(tmp_path):
    invariants(lambda: Plain(resnet18(num_classes=4), lr=0.005), batches(images(12, side=32), 6), tmp_path, epochs=2)


@pytest.mark.slow
def test_vit_b_16(tmp_path):
    """With 2 of its 12 layers, which are alike."""
    network = VisionTransformer(32, 16, num_layers=2, num_heads=12, hidden_dim=768, mlp_dim=3072, num_classes=4)
    nn.init.normal_(network.heads.head.weight, std=0.02)  # torchvision's is zero, and no gradient passes it
    invariants(lambda: Plain(deepcopy(network), lr=0.01), batches(images(4, side=32), 4), tmp_path, epochs=2)


def vision_transformer():
    network = VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=4
    )
    nn.init.normal_(network.heads.head.weight, std=0.1)  # torchvision's is zero, and no gradient passes it
    return Plain(network, lr=0.1)


def test_vision_transformer(tmp_path):
    trained = invariants(vision_transformer, batches(images(16, side=16), 8), tmp_path, epochs=24)
    assert "network.encoder.layers.encoder_layer_0.self_attention.in_proj_weight" in trained.masks


def test_vision_transformer_is_corrected_and_its_spectra_are_measured():
    spectrum = JacobianSpectrum(examples=4)
    data = batches(images(16, side=16), 8)
    trained = Trained(vision_transformer, data, callbacks=[spectrum], isometry=ApproximateIsometry())
    assert list(spectrum.spectra) == ["dense", "pruned", "corrected", "train"]
    assert len(trained.pruning.changes) == len(trained.masks)


def test_vit_b_16_has_masks_of_its_linear_layers_projections_and_patches():
    with torch.device("meta"):
        network = vit_b_16()
    for parameter in network.to_empty(device="cpu").parameters():  # its own initialization takes seconds
        parameter.data.uniform_(-1, 1)
    masks = prune(network, Magnitude(), 0.9)
    others = [name for name, _ in network.named_parameters() if name not in masks and not name.endswith("bias")]
    assert others == ["class_token", "encoder.pos_embedding", *(n for n in others if ".ln" in n)]
    assert masks.kept == keep_count(masks.size, 0.9)


class LanguageModel(L.LightningModule):
    """A Transformer encoder that predicts the next of 8 tokens, with output layer and embedding tied."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(8, 32)
        self.position = nn.Parameter(torch.randn(6, 32))
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.output = nn.Linear(32, 8, bias=False)
        self.output.weight = self.embedding.weight

    def training_step(self, batch):
        tokens = batch["tokens"]
        causal = nn.Transformer.generate_square_subsequent_mask(5)
        hidden = self.encoder(self.embedding(tokens[:, :5]) + self.position[:5], mask=causal, is_causal=True)
        loss = F.cross_entropy(self.output(hidden).flatten(0, 1), tokens[:, 1:].flatten())
        self.log("loss", loss)
        return {"loss": loss, "hidden": hidden}

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 16)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def sentences(n):
    """Return sentences that count up from a first token."""
    return [{"tokens": (torch.arange(6) + i) % 8} for i in range(n)]


def test_transformer_encoder(tmp_path):
    trained = invariants(LanguageModel, batches(sentences(16), 8), tmp_path, epochs=8)
    assert "embedding.weight" in trained.masks
    assert "output.weight" not in trained.masks


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_in_another_precision(precision):
    trained = Trained(vision_transformer, batches(images(16, side=16), 8), trainer={"precision": precision})
    assert trained.masks.kept == keep_count(trained.masks.size, 0.9)
    assert len(trained.check.losses) == 2


def test_under_accumulation_and_clipping():
    data = batches(images(16, side=16), 4)
    trained = Trained(vision_transformer, data, trainer={"accumulate_grad_batches": 3, "gradient_clip_val": 0.1})
    assert trained.trainer.global_step == 2
