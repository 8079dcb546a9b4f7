"""Parameters, multiply-accumulates and bytes, counted by hand."""

import torch
from torch import nn

from spl.export.cost import Cost, layer_cost, layer_positions, network_cost


def test_a_weight_is_used_once_for_each_position_of_one_example():
    network = nn.Sequential(
        nn.Conv1d(2, 3, 2, stride=2),  # 8 positions become 4
        nn.ConvTranspose1d(3, 5, 2),  # reads these 4, and makes 5
        nn.Conv1d(5, 10, 1, groups=5),
        nn.Linear(5, 7),  # on each of 10 channels
    )
    positions = layer_positions(network, torch.randn(6, 2, 8))
    assert positions == {"0": 4, "1": 4, "2": 5, "3": 10}
    assert layer_cost(network[0], 4) == Cost(parameters=15, macs=4 * 12, bytes=60)
    assert layer_cost(network[2], 5) == Cost(parameters=20, macs=5 * 10, bytes=80)
    assert network_cost(network, positions).macs == 4 * 12 + 4 * 30 + 5 * 10 + 10 * 35


def test_a_layer_that_is_called_twice_counts_twice():
    layer = nn.Linear(3, 3)
    network = nn.Sequential(layer, layer)
    assert layer_positions(network, torch.randn(4, 3)) == {"0": 2}


def test_batchnorm_has_parameters_and_bytes_but_no_macs():
    network = nn.Sequential(nn.BatchNorm1d(4))
    assert network_cost(network, layer_positions(network, torch.randn(2, 4))) == Cost(8, 0, 4 * (8 + 8) + 8)
