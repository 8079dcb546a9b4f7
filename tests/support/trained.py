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


@torch.no_grad()
def lively_(network, example):
    """Draw statistics and parameters as after training, around those of the network's own values for an example.

    So the outputs depend on the inputs, also of deep networks whose weights are pruned, and dead channels have nonzero
    values. Scales of layers that begin at 0 or nearly so are 1.
    """
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 and name.endswith("bias"):
            parameter.normal_(0, 0.1)
        elif "gamma" in name or "layer_scale" in name or name.endswith("norm.weight"):
            parameter.normal_(1, 0.3)
        elif parameter.ndim > 1 and not parameter.any():
            parameter.normal_(0, 0.1)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    own = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    network(example)
    for norm, momentum in zip(norms, own, strict=True):
        norm.momentum = momentum
        dead = norm.running_var < 1e-6
        norm.running_mean[dead] = torch.randn(int(dead.sum()))
        norm.running_var[dead] = 1.0
        norm.running_mean += 0.3 * norm.running_var.sqrt() * torch.randn(len(dead))
        norm.running_var *= torch.empty(len(dead)).uniform_(0.5, 2)
        if norm.affine:
            norm.weight.normal_(1, 0.3)
            norm.bias.normal_(0, 0.3)
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


class LastStep(nn.Module):
    """A classifier of sequences: an LSTM, and two layers that read its last step."""

    def __init__(self):
        super().__init__()
        self.inputs = nn.Linear(8, 12)
        self.lstm = nn.LSTM(12, 10, num_layers=2, batch_first=True)
        self.hidden = nn.Linear(10, 20)
        self.outputs = nn.Linear(20, 4)

    def forward(self, x):
        return self.outputs(torch.relu(self.hidden(self.lstm(torch.relu(self.inputs(x)))[0][:, -1])))


class OverwrittenInput(nn.Module):
    """A network with in-place activations on values that are read again."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        a = self.conv1(x)
        b = self.conv2(self.act(a)) + a
        c = self.conv3(nn.functional.silu(b, inplace=True)) + b
        return self.head((c + a.mul_(0.5)).mean((2, 3)))


class GatedBlocks(nn.Module):
    """Normalized convolutions whose outputs are multiplied by a gate that reads their mean."""

    def __init__(self):
        super().__init__()
        self.block1, self.block2 = Block(3, 16), Block(16, 16)
        self.squeeze, self.excite = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.block2(self.block1(x))
        gate = self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return self.head((x * torch.sigmoid(gate)).flatten(2).mean(2))
