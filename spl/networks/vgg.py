"""VGG16 for small images, as in the paper."""

from collections import OrderedDict

from torch import nn

from spl.networks.images import ImageMean, ImageNetwork, scaled
from spl.networks.sizes import check_sizes

# kernel size and channels of each convolution, block by block
_BLOCKS = [
    [(3, 64), (3, 64)],
    [(3, 128), (3, 128)],
    [(3, 256), (3, 256), (1, 256)],
    [(3, 512), (3, 512), (1, 512)],
    [(3, 512), (3, 512), (1, 512)],
]


class VGG16(ImageNetwork):
    """A VGG16 for small images: thirteen convolutions in five blocks, then Linear layers 512-512-classes.

    VGG-D of Simonyan & Zisserman 2015 with the changes of Lee et al. 2020: the third convolutions are 1×1, and every
    layer but the last is followed by BatchNorm and ReLU. Each block ends with 2×2 max pooling. At width 1 it has
    10,526,538 weights and biases on CIFAR-10, and 10,496 parameters of BatchNorm. Images of another size than 32×32 are
    averaged over the pixels that are left after the blocks.

    Args:
        width_multiplier: factor of the 64 to 512 channels and units of every layer but the last.
        in_channels: 1 for grey images, 3 for colour.
        num_classes: number of logits.

    Example:
        >>> import torch
        >>> from spl.networks import VGG16
        >>> network = VGG16(width_multiplier=0.1)
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, width_multiplier: float = 1.0, in_channels: int = 3, num_classes: int = 10) -> None:
        check_sizes(in_channels=in_channels, num_classes=num_classes)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        fan_in, index = in_channels, 0
        for i, block in enumerate(_BLOCKS, start=1):
            for kernel, channels in block:
                index += 1
                fan_out = scaled(channels, width_multiplier)
                layers[f"conv{index}"] = nn.Conv2d(fan_in, fan_out, kernel, padding=kernel // 2)
                layers[f"bn{index}"] = nn.BatchNorm2d(fan_out)
                layers[f"act{index}"] = nn.ReLU(inplace=True)
                fan_in = fan_out
            layers[f"pool{i}"] = nn.MaxPool2d(2, ceil_mode=True)
        layers["mean"] = ImageMean()
        for i in (1, 2):
            fan_out = scaled(512, width_multiplier)
            layers[f"fc{i}"] = nn.Linear(fan_in, fan_out)
            layers[f"bn{index + i}"] = nn.BatchNorm1d(fan_out)
            layers[f"act{index + i}"] = nn.ReLU(inplace=True)
            fan_in = fan_out
        layers["fc3"] = nn.Linear(fan_in, num_classes)
        super().__init__(layers, in_channels, halvings=len(_BLOCKS))
