"""The parts that the convolutional networks share: scaled widths, checks of the images, and global average pooling."""

from collections import OrderedDict

from torch import Tensor, nn

from spl.errors import InputError


def scaled(channels: int, width_multiplier: float) -> int:
    """Return `channels` times the multiplier, rounded, and at least 1.

    Example:
        >>> from spl.networks.images import scaled
        >>> scaled(64, 0.5)
        32
    """
    if not width_multiplier > 0:
        raise InputError(f"width_multiplier must be positive, got {width_multiplier}.")
    return max(1, round(channels * width_multiplier))


class ImageMean(nn.Module):
    """A global average pooling, [N, C, H, W] → [N, C]; PyTorch's adaptive pooling is not deterministic on CUDA.

    Example:
        >>> import torch
        >>> from spl.networks.images import ImageMean
        >>> ImageMean()(torch.ones(1, 3, 4, 4))
        tensor([[1., 1., 1.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean over height and width."""
        return x.mean((2, 3))


class ImageNetwork(nn.Sequential):
    """A sequence of layers from images to logits that refuses images for which it was not made.

    Args:
        layers: the layers, by name.
        in_channels: number of channels of the images.
        halvings: number of times that the layers halve the image.

    Example:
        >>> from collections import OrderedDict
        >>> import torch
        >>> from spl.networks.images import ImageMean, ImageNetwork
        >>> layers = OrderedDict(conv=torch.nn.Conv2d(3, 10, 3, stride=2, padding=1), mean=ImageMean())
        >>> ImageNetwork(layers, in_channels=3, halvings=1)(torch.randn(5, 3, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(self, layers: OrderedDict[str, nn.Module], in_channels: int, halvings: int) -> None:
        super().__init__(layers)
        self.in_channels = in_channels
        self.smallest = 2 ** (halvings - 1) + 1

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, classes] for images [N, in_channels, height, width]."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            remedy = f": set in_channels={x.shape[1]}" if x.ndim == 4 else ""
            raise InputError(
                f"{type(self).__name__} takes images [N, {self.in_channels}, height, width], got inputs of shape "
                f"{tuple(x.shape)}{remedy}."
            )
        if min(x.shape[2:]) < self.smallest:
            raise InputError(
                f"{type(self).__name__} halves its images too often for fewer than {self.smallest}×{self.smallest} "
                f"pixels, got {x.shape[2]}×{x.shape[3]}: enlarge the images, or use another network."
            )
        logits: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return logits
