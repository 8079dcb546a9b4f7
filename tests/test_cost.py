"""Parameters, multiply-accumulates and bytes, counted by hand."""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.swin_transformer import SwinTransformerBlock

from spl.export.cost import Cost, NetworkCost, network_cost, weight_macs


def test_a_weight_is_used_once_for_each_position_of_one_example():
    network = nn.Sequential(
        nn.Conv1d(2, 3, 2, stride=2),  # 8 positions become 4
        nn.ConvTranspose1d(3, 5, 2),  # these 4 become 5
        nn.Conv1d(5, 10, 1, groups=5),
        nn.Linear(5, 7),  # applied to each of 10 channels
    )
    example = torch.randn(6, 2, 8)
    macs = {"0.weight": 4 * 12, "1.weight": 4 * 30, "2.weight": 5 * 10, "3.weight": 10 * 35}
    assert weight_macs(network, example) == macs
    cost = network_cost(network, example)
    assert cost.layers["0"] == Cost(parameters=15, macs=48, bytes=60)
    assert cost.total == Cost(15 + 35 + 20 + 42, 48 + 120 + 50 + 350, 4 * 112)


def test_a_layer_that_is_called_twice_counts_twice():
    layer = nn.Linear(3, 3)
    assert weight_macs(nn.Sequential(layer, layer), torch.randn(4, 3)) == {"0.weight": 2 * 9}
    assert weight_macs(layer, torch.randn(4, 3)) == {"weight": 9}


class Crossing(nn.Module):
    """A module in which two queries of 4 numbers attend to five keys of `size` numbers."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.attention = nn.MultiheadAttention(4, 2, kdim=size, vdim=size, batch_first=True)

    def forward(self, x):
        keys = x[..., : self.size]
        return self.attention(x[:, :2], key=keys, value=keys, need_weights=False)[0]


def test_attention_projects_queries_keys_and_values():
    example = torch.randn(3, 5, 4)
    assert weight_macs(Crossing(4), example) == {
        "attention.in_proj_weight": 16 * (2 + 5 + 5),
        "attention.out_proj.weight": 16 * 2,
    }
    assert weight_macs(Crossing(3), example) == {
        "attention.q_proj_weight": 16 * 2,
        "attention.k_proj_weight": 12 * 5,
        "attention.v_proj_weight": 12 * 5,
        "attention.out_proj.weight": 16 * 2,
    }


def test_an_encoder_counts_what_its_fast_path_hides():
    encoder = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
    assert sum(weight_macs(encoder, torch.randn(3, 5, 4)).values()) == 5 * (4 * 16 + 2 * 24)


def test_batchnorm_has_parameters_and_bytes_but_no_macs():
    network = nn.Sequential(nn.BatchNorm1d(4))
    assert network_cost(network, torch.randn(2, 4)) == NetworkCost(Cost(8, 0, 4 * (8 + 8) + 8), {})


def test_functions_that_are_called_with_weights_of_a_layer_count_once():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.called, self.read, self.conv = nn.Linear(4, 6), nn.Linear(6, 5), nn.Conv2d(1, 2, 3, bias=False)

        def forward(self, x):
            x = F.linear(self.called(x), self.read.weight, bias=self.read.bias)
            return F.conv2d(x[:, None, None].expand(-1, 1, 5, 5), weight=self.conv.weight)

    counted = weight_macs(Functional(), torch.randn(3, 4))
    assert counted == {"called.weight": 24, "read.weight": 30, "conv.weight": 18 * 9}


def test_the_attention_of_swin_counts():
    block = SwinTransformerBlock(16, 2, [4, 4], [0, 0]).eval()
    counted = weight_macs(block, torch.randn(2, 8, 8, 16))
    tokens, width = 64, 16
    assert counted["attn.qkv.weight"] == tokens * 3 * width**2
    assert counted["attn.proj.weight"] == tokens * width**2
    assert counted["mlp.0.weight"] == counted["mlp.3.weight"] == tokens * 4 * width**2
