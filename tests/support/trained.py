"""Small versions of real architectures, with statistics as after training, but without training."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.regnet import BlockParams, RegNet


def as_trained_(network):
    """Draw statistics and parameters of BatchNorm at random, so that dead channels have nonzero outputs."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.3, 2)
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    return network.eval()


def regnet_y():
    """Return a RegNet-Y, with grouped convolutions and squeeze-and-excitation in residual blocks."""
    blocks = BlockParams.from_init_params(depth=2, w_0=24, w_a=16, w_m=2, group_width=8, se_ratio=0.25)
    return RegNet(blocks, num_classes=5, stem_width=8)


class ResUNet(nn.Module):
    """The U-Net with residual blocks of Zhang et al. (2018): skips are concatenated, shortcuts are added.

    Args:
        channels: the channels of each level, from the largest image down.
    """

    def __init__(self, channels=(16, 24)):
        super().__init__()
        fan_in = [3, *channels[:-1]]
        deeper = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.down = nn.ModuleList(Block(a, b) for a, b in zip(fan_in, channels, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in deeper)
        self.merge = nn.ModuleList(Block(2 * b, b) for _, b in deeper)
        self.head = nn.Conv2d(channels[0], 2, 1)

    def forward(self, x):
        skips = []
        for i, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.head(x)


class Block(nn.Module):
    """A block of two normalized convolutions with an added shortcut."""

    def __init__(self, fan_in, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(fan_in, channels, 1)

    def forward(self, x):
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))
