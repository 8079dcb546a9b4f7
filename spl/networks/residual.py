"""Residual networks for small images: ResNet (v1) and WideResNet (v2)."""

from collections import OrderedDict
from itertools import pairwise
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from spl.networks.images import ImageMean, ImageNetwork, scaled
from spl.networks.sizes import check_depth, check_sizes


def _convolution(fan_in: int, fan_out: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(fan_in, fan_out, kernel, stride, padding=kernel // 2)


class ZeroPadShortcut(nn.Module):
    """A shortcut without weights: the identity, averaged over stride × stride pixels, with zero channels appended.

    Example:
        >>> import torch
        >>> from spl.networks.residual import ZeroPadShortcut
        >>> ZeroPadShortcut(16, 32, stride=2)(torch.randn(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.extra = fan_out - fan_in
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs [N, fan_out, ⌈H/stride⌉, ⌈W/stride⌉] of inputs [N, fan_in, H, W]."""
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        return F.pad(x, (0, 0, 0, 0, 0, self.extra))


class Block(nn.Module):
    """A block of ResNet v1: convolutions with BatchNorm, ReLU between them, the shortcut added, and ReLU.

    He et al. 2016a, with the shortcut that has no weights.

    Args:
        fan_in: channels of the input.
        fan_out: channels of the output.
        stride: stride of the first convolution.
        layers: number of 3×3 convolutions.

    Example:
        >>> import torch
        >>> from spl.networks.residual import Block
        >>> Block(16, 32, stride=2, layers=2)(torch.randn(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(self, fan_in: int, fan_out: int, stride: int, layers: int) -> None:
        super().__init__()
        body: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (a, b) in enumerate(pairwise([fan_in] + [fan_out] * layers), start=1):
            body[f"conv{i}"] = _convolution(a, b, stride=stride if i == 1 else 1)
            body[f"bn{i}"] = nn.BatchNorm2d(b)
            if i < layers:
                body[f"act{i}"] = nn.ReLU(inplace=True)
        self.body = nn.Sequential(body)
        same = fan_in == fan_out and stride == 1
        self.shortcut: nn.Module = nn.Identity() if same else ZeroPadShortcut(fan_in, fan_out, stride)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs [N, fan_out, ⌈H/stride⌉, ⌈W/stride⌉] of inputs [N, fan_in, H, W]."""
        sum_: Tensor = self.act(self.body(x) + self.shortcut(x))
        return sum_


class PreActivationBlock(nn.Module):
    """A block of ResNet v2: BatchNorm and ReLU before every convolution; the sum is left as it is.

    He et al. 2016b. Where the shape changes, the shortcut is a 1×1 convolution of the activated input, as in wide
    residual networks (Zagoruyko & Komodakis 2016).

    Args:
        fan_in: channels of the input.
        fan_out: channels of the output.
        stride: stride of the first convolution.
        layers: number of 3×3 convolutions.

    Example:
        >>> import torch
        >>> from spl.networks.residual import PreActivationBlock
        >>> PreActivationBlock(16, 32, stride=2, layers=2)(torch.randn(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(self, fan_in: int, fan_out: int, stride: int, layers: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(fan_in)
        self.act1 = nn.ReLU()
        same = fan_in == fan_out and stride == 1
        self.shortcut = None if same else _convolution(fan_in, fan_out, kernel=1, stride=stride)
        body: OrderedDict[str, nn.Module] = OrderedDict(conv1=_convolution(fan_in, fan_out, stride=stride))
        for i in range(2, layers + 1):
            body[f"bn{i}"] = nn.BatchNorm2d(fan_out)
            body[f"act{i}"] = nn.ReLU(inplace=True)
            body[f"conv{i}"] = _convolution(fan_out, fan_out)
        self.body = nn.Sequential(body)

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs [N, fan_out, ⌈H/stride⌉, ⌈W/stride⌉] of inputs [N, fan_in, H, W]."""
        activated = self.act1(self.bn1(x))
        sum_: Tensor = self.body(activated) + (x if self.shortcut is None else self.shortcut(activated))
        return sum_


def _stages(
    block: type[Block] | type[PreActivationBlock],
    blocks_per_stage: int,
    layers_per_block: int,
    widths: list[int],
) -> OrderedDict[str, nn.Module]:
    """Return stage1 to stage3 of `widths`, the stem's first; each but the first stage halves the image."""
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
        stage: OrderedDict[str, nn.Module] = OrderedDict()
        stage["block1"] = block(fan_in, fan_out, stride=1 if i == 1 else 2, layers=layers_per_block)
        for j in range(2, blocks_per_stage + 1):
            stage[f"block{j}"] = block(fan_out, fan_out, stride=1, layers=layers_per_block)
        stages[f"stage{i}"] = nn.Sequential(stage)
    return stages


def _batch_norm_relu(channels: int) -> dict[str, nn.Module]:
    return {"bn": nn.BatchNorm2d(channels), "act": nn.ReLU(inplace=True)}


def _widths(width_multiplier: float) -> list[int]:
    """Return the channels of the stem, which no multiplier widens, and of the stages."""
    return [scaled(16, min(width_multiplier, 1.0)), *(scaled(channels, width_multiplier) for channels in (16, 32, 64))]


class ResNet(ImageNetwork):
    """A ResNet v1 for small images: a stem of 16 channels, three stages of 16, 32 and 64, shortcuts without weights.

    The network of He et al. 2016a as in Lee et al. 2020, who average where He et al. subsample. ResNet-20, 32, 56 and
    110 have 3, 5, 9 and 18 blocks per stage. On CIFAR-10 they have 269,034, 463,018, 850,986 and 1,723,914 weights and
    biases, without the parameters of BatchNorm.

    Args:
        blocks_per_stage: residual blocks in each stage.
        layers_per_block: 3×3 convolutions in each block.
        width_multiplier: factor of the channels of the stages.
        in_channels: 1 for grey images, 3 for colour.
        num_classes: number of logits.

    Example:
        >>> import torch
        >>> from spl.networks import ResNet
        >>> network = ResNet(blocks_per_stage=3, width_multiplier=0.25)  # ResNet-20, a quarter as wide
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    _block: ClassVar[type[Block] | type[PreActivationBlock]] = Block

    def __init__(
        self,
        blocks_per_stage: int = 3,
        layers_per_block: int = 2,
        width_multiplier: float = 1.0,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        check_sizes(
            blocks_per_stage=blocks_per_stage,
            layers_per_block=layers_per_block,
            in_channels=in_channels,
            num_classes=num_classes,
        )
        layer_count = 3 * blocks_per_stage * layers_per_block + 2
        check_depth(layer_count, blocks_per_stage=blocks_per_stage, layers_per_block=layers_per_block)
        widths = _widths(width_multiplier)
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=_convolution(in_channels, widths[0]))
        if self._block is Block:
            layers |= _batch_norm_relu(widths[0])
        layers |= _stages(self._block, blocks_per_stage, layers_per_block, widths)
        if self._block is PreActivationBlock:
            layers |= _batch_norm_relu(widths[-1])
        layers |= {"mean": ImageMean(), "fc": nn.Linear(widths[-1], num_classes)}
        super().__init__(layers, in_channels, halvings=2)


class WideResNet(ResNet):
    """A wide ResNet v2, WRN-16-k: a stem of 16 channels, three stages of 16 k, 32 k and 64 k, projected shortcuts.

    Zagoruyko & Komodakis 2016. WRN-16-k has two blocks per stage.

    Args:
        blocks_per_stage: residual blocks in each stage.
        layers_per_block: 3×3 convolutions in each block.
        width_multiplier: k, the factor of the channels of the stages.
        in_channels: 1 for grey images, 3 for colour.
        num_classes: number of logits.

    Example:
        >>> import torch
        >>> from spl.networks import WideResNet
        >>> network = WideResNet(blocks_per_stage=1, width_multiplier=0.5)
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    _block = PreActivationBlock

    def __init__(
        self,
        blocks_per_stage: int = 2,
        layers_per_block: int = 2,
        width_multiplier: float = 6.0,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__(blocks_per_stage, layers_per_block, width_multiplier, in_channels, num_classes)
