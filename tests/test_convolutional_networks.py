import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spl.errors import InputError
from spl.networks import VGG16, ResNet, WideResNet
from spl.networks.residual import Block, PreActivationBlock, ZeroPadShortcut

NETWORKS = [VGG16, ResNet, WideResNet]
SMALL = {VGG16: {"width_multiplier": 0.125}, ResNet: {"width_multiplier": 0.5}, WideResNet: {"width_multiplier": 0.5}}


def small(network: type[nn.Module], **options) -> nn.Module:
    """Return a narrow network in evaluation mode, with nontrivial normalization."""
    return with_statistics(network(**SMALL[network], **options)).eval()


def with_statistics(network: nn.Module) -> nn.Module:
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for positive in (layer.weight, layer.running_var):
                nn.init.uniform_(positive, 0.5, 2.0)
            for number in (layer.bias, layer.running_mean):
                nn.init.normal_(number, std=0.5)
    return network


def unfilled(network: type[nn.Module], *args, **options) -> nn.Module:
    """Return a network whose parameters have only shapes, and take no memory."""
    with torch.device("meta"):
        return network(*args, **options)


def weights_and_biases(network: nn.Module) -> int:
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return sum(p.numel() for layer in layers for p in layer.parameters())


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}


# Sizes


@pytest.mark.parametrize(
    ("network", "options", "expected"),
    [
        (VGG16, {}, 10_526_538),
        (ResNet, {}, 269_034),
        (ResNet, {"blocks_per_stage": 3}, 269_034),
        (ResNet, {"blocks_per_stage": 5}, 463_018),
        (ResNet, {"blocks_per_stage": 9}, 850_986),
        (ResNet, {"blocks_per_stage": 18}, 1_723_914),
        (WideResNet, {}, 6_170_090),
        (WideResNet, {"width_multiplier": 6}, 6_170_090),
    ],
)
def test_weights_and_biases_are_as_many_as_the_references(network, options, expected):
    assert weights_and_biases(unfilled(network, **options)) == expected


def affine(kernel: int, fan_in: int, fan_out: int) -> int:
    """Return the number of weights and biases of one layer."""
    return kernel**2 * fan_in * fan_out + fan_out


def test_the_weights_of_vgg16_layer_by_layer():
    # two 3×3 convolutions in each of the first two blocks, then two and a 1×1; then layers 512-512-10
    expected = affine(3, 3, 64) + affine(3, 64, 64) + affine(3, 64, 128) + affine(3, 128, 128)
    for fan_in, fan_out in [(128, 256), (256, 512), (512, 512)]:
        expected += affine(3, fan_in, fan_out) + affine(3, fan_out, fan_out) + affine(1, fan_out, fan_out)
    expected += affine(1, 512, 512) + affine(1, 512, 512) + affine(1, 512, 10)
    assert weights_and_biases(unfilled(VGG16)) == expected


def resnet_weights(blocks: int, layers: int, k: int, shortcuts: bool) -> int:
    expected = affine(3, 3, 16) + affine(1, 64 * k, 10)
    for fan_in, fan_out in [(16, 16 * k), (16 * k, 32 * k), (32 * k, 64 * k)]:
        expected += affine(3, fan_in, fan_out) + (blocks * layers - 1) * affine(3, fan_out, fan_out)
        expected += shortcuts * affine(1, fan_in, fan_out)
    return expected


@pytest.mark.parametrize("blocks", [1, 2, 18])
@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("k", [2, 8])
@pytest.mark.parametrize("network", [ResNet, WideResNet])
def test_the_weights_of_residual_networks_stage_by_stage(network, blocks, layers, k):
    expected = resnet_weights(blocks, layers, k, shortcuts=network is WideResNet)
    assert weights_and_biases(unfilled(network, blocks, layers, k)) == expected


@pytest.mark.parametrize(
    ("network", "channels"),
    [
        (VGG16, 2 * 64 + 2 * 128 + 3 * 256 + 6 * 512 + 2 * 512),
        (ResNet, 16 + 6 * 16 + 6 * 32 + 6 * 64),
        (WideResNet, (16 + 3 * 96) + (96 + 3 * 192) + (192 + 3 * 384) + 384),
    ],
)
def test_batchnorm_has_two_parameters_a_channel_beside_the_weights(network, channels):
    network = unfilled(network)
    assert sum(p.numel() for p in network.parameters()) - weights_and_biases(network) == 2 * channels


def test_vgg16_has_sixteen_layers_and_its_third_convolutions_are_one_by_one():
    network = unfilled(VGG16)
    kernels = [m.kernel_size for m in convolutions(network).values()]
    assert kernels == [(3, 3)] * 4 + [(3, 3), (3, 3), (1, 1)] * 3
    assert len(kernels) + sum(isinstance(m, nn.Linear) for m in network.modules()) == 16
    # a pool follows conv2 and conv4, and then every third convolution
    layers = list(dict(network.named_children()))
    assert [layers[layers.index(f"pool{i}") - 3] for i in range(1, 6)] == [f"conv{i}" for i in (2, 4, 7, 10, 13)]


@pytest.mark.parametrize(("blocks", "depth"), [(3, 20), (5, 32), (9, 56), (18, 110)])
def test_resnet_n_has_n_layers_with_weights(blocks, depth):
    network = unfilled(ResNet, blocks_per_stage=blocks)
    assert len(convolutions(network)) + 1 == depth


def test_wide_resnet_16_has_sixteen_convolutions():
    kernels = [m.kernel_size for m in convolutions(unfilled(WideResNet)).values()]
    assert sorted(kernels) == [(1, 1)] * 3 + [(3, 3)] * 13


@pytest.mark.parametrize("network", [ResNet, WideResNet])
def test_the_second_and_third_stage_halve_the_image_once(network):
    strides = {name: m.stride for name, m in convolutions(unfilled(network)).items() if m.stride != (1, 1)}
    assert set(strides.values()) == {(2, 2)}
    halving = {name for name in strides if "shortcut" not in name}
    assert halving == {"stage2.block1.body.conv1", "stage3.block1.body.conv1"}
    assert set(strides) - halving == {f"stage{i}.block1.shortcut" for i in (2, 3) if network is WideResNet}


@pytest.mark.parametrize("multiplier", [0.25, 0.5, 1, 1.5, 2, 4])
def test_the_width_multiplier_scales_the_channels_of_every_layer_of_vgg16_but_the_last(multiplier):
    network = unfilled(VGG16, width_multiplier=multiplier, num_classes=7)
    channels = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert [m.out_channels for m in convolutions(network).values()] == [multiplier * c for c in channels]
    assert [network.fc1.out_features, network.fc2.out_features] == [multiplier * 512] * 2
    assert network.fc3.out_features == 7


@pytest.mark.parametrize(("multiplier", "stem"), [(0.25, 4), (0.5, 8), (1, 16), (1.5, 16), (2, 16), (4, 16)])
@pytest.mark.parametrize("network", [ResNet, WideResNet])
def test_the_width_multiplier_scales_the_stages_and_narrows_the_stem(network, multiplier, stem):
    network = unfilled(network, width_multiplier=multiplier)
    assert network.conv.out_channels == stem
    for stage, channels in [(network.stage1, 16), (network.stage2, 32), (network.stage3, 64)]:
        assert {m.out_channels for m in convolutions(stage).values()} == {multiplier * channels}


def test_channels_are_rounded_and_never_fewer_than_one():
    assert [m.out_channels for m in convolutions(VGG16(width_multiplier=0.001)).values()] == [1] * 13
    widths = [m.out_channels for m in convolutions(ResNet(blocks_per_stage=1, width_multiplier=0.1)).values()]
    assert widths == [2, 2, 2, 3, 3, 6, 6]  # from 1.6, 3.2 and 6.4


# Architecture sculpting: sparse equivalents of ResNet-20


def test_resnet_20_is_98_4_percent_sparse_beside_its_eightfold_width():
    wide = unfilled(ResNet, width_multiplier=8)
    assert 1 - 269_034 / weights_and_biases(wide) == pytest.approx(0.984, abs=5e-4)


@pytest.mark.parametrize(("blocks", "layers", "k"), [(3, 2, 8), (1, 2, 8), (3, 4, 1)])
def test_wider_networks_of_fewer_or_larger_blocks_run_and_are_larger_than_resnet_20(blocks, layers, k):
    network = ResNet(blocks_per_stage=blocks, layers_per_block=layers, width_multiplier=k)
    assert weights_and_biases(network) == resnet_weights(blocks, layers, k, shortcuts=False) > 269_034
    loss = network(torch.randn(2, 3, 32, 32)).square().sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, list(network.parameters())))


# Names


def test_the_names_of_the_weights_are_those_that_checkpoints_and_masks_hold():
    def names(network: nn.Module) -> list[str]:
        return [name.removesuffix(".weight") for name, p in network.named_parameters() if p.ndim > 1]

    assert names(unfilled(VGG16)) == [f"conv{i}" for i in range(1, 14)] + ["fc1", "fc2", "fc3"]
    assert names(unfilled(ResNet, blocks_per_stage=2)) == [
        "conv",
        *(f"stage{i}.block{j}.body.conv{k}" for i in (1, 2, 3) for j in (1, 2) for k in (1, 2)),
        "fc",
    ]
    assert names(unfilled(WideResNet, blocks_per_stage=1, layers_per_block=3)) == [
        "conv",
        *(f"stage{i}.block1.{name}" for i in (1, 2, 3) for name in ("shortcut", *(f"body.conv{k}" for k in (1, 2, 3)))),
        "fc",
    ]


# Logits


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (33, 17), (19, 40)])
@pytest.mark.parametrize(("in_channels", "num_classes"), [(1, 10), (3, 1), (2, 100)])
@pytest.mark.parametrize("network", NETWORKS)
def test_images_of_any_size_and_channels_become_logits(network, in_channels, num_classes, size):
    logits = small(network, in_channels=in_channels, num_classes=num_classes)(torch.randn(2, in_channels, *size))
    assert logits.shape == (2, num_classes)
    assert logits.isfinite().all()
    assert not torch.equal(*logits)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_weight_has_a_gradient(network):
    network = network(**SMALL[network])
    network(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.ndim > 1 and not p.grad.any()] == []


@pytest.mark.parametrize("network", NETWORKS)
def test_an_image_is_not_changed_by_looking_at_it(network):
    images = torch.randn(2, 3, 32, 32)
    before = images.clone()
    small(network)(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("network", NETWORKS)
def test_logits_are_the_same_in_any_memory_layout(network):
    network = small(network)
    images = torch.randn(2, 3, 33, 28)
    expected = network(images)
    actual = network.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected)


def normalized(x: Tensor, layer: nn.BatchNorm2d) -> Tensor:
    """Normalize by the statistics of the batch if the layer is in training mode."""
    if layer.training:
        axes = tuple(i for i in range(x.ndim) if i != 1)
        mean, variance = x.mean(axes), x.var(axes, correction=0)
    else:
        mean, variance = layer.running_mean, layer.running_var
    shape = (1, -1, *(1,) * (x.ndim - 2))
    x = (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt()
    return x * layer.weight.view(shape) + layer.bias.view(shape)


def convolved(x: Tensor, layer: nn.Conv2d, stride: int = 1) -> Tensor:
    """Convolve with zero padding that keeps the size of the image."""
    return F.conv2d(x, layer.weight, layer.bias, stride, padding=(layer.weight.shape[-1] - 1) // 2)


def test_the_shortcut_without_weights_averages_what_is_there_and_appends_zeros():
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 6.0, 5.0], [7.0, 9.0, 8.0]])[None, None]
    y = ZeroPadShortcut(1, 3, stride=2)(x)
    assert y.tolist() == [[[[13 / 4, 4.0], [8.0, 8.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]]
    assert torch.equal(ZeroPadShortcut(1, 2, stride=1)(x), torch.cat([x, torch.zeros_like(x)], 1))


MODES = [nn.Module.train, nn.Module.eval]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("fan_out", "stride"), [(2, 1), (3, 1), (4, 2), (2, 2)])
def test_a_block_by_its_equation(fan_out, stride, mode):
    block = mode(with_statistics(Block(2, fan_out, stride, layers=2)))
    x = torch.randn(3, 2, 6, 4)
    h = normalized(convolved(x, block.body.conv1, stride), block.body.bn1).relu()
    h = normalized(convolved(h, block.body.conv2), block.body.bn2)
    shortcut = torch.zeros_like(h)
    shortcut[:, :2] = x if stride == 1 else x.unflatten(2, (3, 2)).unflatten(4, (2, 2)).mean((3, 5))
    torch.testing.assert_close(block(x), (h + shortcut).relu())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("fan_out", "stride"), [(2, 1), (3, 1), (4, 2), (2, 2)])
def test_a_pre_activation_block_by_its_equation(fan_out, stride, mode):
    block = mode(with_statistics(PreActivationBlock(2, fan_out, stride, layers=3)))
    x = torch.randn(3, 2, 6, 5)
    activated = normalized(x, block.bn1).relu()
    h = convolved(activated, block.body.conv1, stride)
    h = convolved(normalized(h, block.body.bn2).relu(), block.body.conv2)
    h = convolved(normalized(h, block.body.bn3).relu(), block.body.conv3)
    shortcut = x if (fan_out, stride) == (2, 1) else convolved(activated, block.shortcut, stride)
    torch.testing.assert_close(block(x), h + shortcut)


@pytest.mark.parametrize("size", [(5, 7), (1, 2), (8, 3)])
@pytest.mark.parametrize("block", [Block, PreActivationBlock])
def test_a_block_of_stride_two_halves_an_odd_image_upwards(block, size):
    y = block(2, 4, stride=2, layers=1).eval()(torch.randn(1, 2, *size))
    assert y.shape == (1, 4, *(math.ceil(n / 2) for n in size))


@pytest.mark.parametrize("mode", MODES)
def test_vgg16_by_its_equation(mode):
    network = mode(with_statistics(VGG16(**SMALL[VGG16]))).double()
    h = images = torch.randn(3, 3, 32, 64, dtype=torch.float64)
    for block in [(1, 2), (3, 4), (5, 6, 7), (8, 9, 10), (11, 12, 13)]:
        for i in block:
            layer, bn = network.get_submodule(f"conv{i}"), network.get_submodule(f"bn{i}")
            h = normalized(convolved(h, layer), bn).relu()
        h = h.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))
    h = h.mean((2, 3))
    h = normalized(h @ network.fc1.weight.T + network.fc1.bias, network.bn14).relu()
    h = normalized(h @ network.fc2.weight.T + network.fc2.bias, network.bn15).relu()
    torch.testing.assert_close(network(images), h @ network.fc3.weight.T + network.fc3.bias)


def test_resnet_by_its_equation():
    network = small(ResNet, blocks_per_stage=2)
    images = torch.randn(2, 3, 9, 8)
    h = normalized(convolved(images, network.conv), network.bn).relu()
    for stage in (network.stage1, network.stage2, network.stage3):
        h = stage.block2(stage.block1(h))
    assert h.shape[2:] == (3, 2)
    torch.testing.assert_close(network(images), h.mean((2, 3)) @ network.fc.weight.T + network.fc.bias)


def test_wide_resnet_by_its_equation():
    network = small(WideResNet)
    images = torch.randn(2, 3, 9, 8)
    h = convolved(images, network.conv)
    for stage in (network.stage1, network.stage2, network.stage3):
        h = stage.block2(stage.block1(h))
    assert h.shape[2:] == (3, 2)
    h = normalized(h, network.bn).relu().mean((2, 3))
    torch.testing.assert_close(network(images), h @ network.fc.weight.T + network.fc.bias)


# Errors


@pytest.mark.parametrize("network", NETWORKS)
def test_images_with_other_channels_are_an_error_that_says_what_to_set(network):
    message = rf"^{network.__name__} takes images \[N, 3, height, width\], .* \(2, 1, 28, 28\): set in_channels=1\.$"
    with pytest.raises(InputError, match=message):
        small(network)(torch.zeros(2, 1, 28, 28))


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 3, 32), (2, 3072), (1, 3, 32, 32, 32)])
@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_no_batch_of_images_is_an_error(network, shape):
    listed = ", ".join(map(str, shape))
    message = rf"^{network.__name__} takes images \[N, 3, height, width\], got inputs of shape \({listed}\)\.$"
    with pytest.raises(InputError, match=message):
        small(network)(torch.zeros(shape))


@pytest.mark.parametrize(("network", "smallest"), [(VGG16, 17), (ResNet, 3), (WideResNet, 3)])
def test_images_too_small_to_be_halved_so_often_are_an_error(network, smallest):
    logits = small(network)(torch.randn(2, 3, smallest, smallest))
    assert logits.shape == (2, 10)
    message = rf"fewer than {smallest}×{smallest} pixels, got 32×{smallest - 1}: enlarge the images"
    with pytest.raises(InputError, match=message):
        small(network)(torch.zeros(2, 3, 32, smallest - 1))


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize(
    ("network", "name"),
    [
        *((network, name) for network in NETWORKS for name in ("in_channels", "num_classes")),
        *((network, name) for network in NETWORKS[1:] for name in ("blocks_per_stage", "layers_per_block")),
    ],
)
def test_a_network_of_nothing_is_an_error(network, name, value):
    with pytest.raises(InputError, match=f"^{name} must be at least 1, got {value}"):
        network(**{name: value})


def test_more_layers_than_were_ever_trained_are_an_error():
    with pytest.raises(InputError, match=r"^blocks_per_stage=2000, layers_per_block=2 makes 12002 layers: ask for at"):
        ResNet(blocks_per_stage=2000)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_width_multiplier_that_is_not_positive_is_an_error(network, value):
    with pytest.raises(InputError, match=f"^width_multiplier must be positive, got {value}"):
        network(width_multiplier=value)
