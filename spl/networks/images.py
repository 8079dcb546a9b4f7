"""What the convolutional networks share: their width, checks of their images, and the mean over an image."""

from collections import OrderedDict

from torch import Tensor, nn

from spl.errors import InputError


def scaled(channels: int, width_multiplier: float) -> int:
    """`channels` times the multiplier, rounded, at least 1."""
    if not width_multiplier > 0:
        raise InputError(f"width_multiplier must be positive, got {width_multiplier}.")
    return max(1, round(channels * width_multiplier))


class ImageMean(nn.Module):
    """Global average pooling, [N, C, H, W] → [N, C]; stock adaptive pooling is not deterministic on CUDA."""

    def forward(self, x: Tensor) -> Tensor:
        """The mean over height and width."""
        return x.mean((2, 3))


class ImageNetwork(nn.Sequential):
    """Layers in a row, from images to logits, that refuse images which they were not made for.

    Args:
        layers: the layers by name.
        in_channels: channels of the images.
        halvings: how often the layers halve the image.
    """

    def __init__(self, layers: OrderedDict[str, nn.Module], in_channels: int, halvings: int) -> None:
        super().__init__(layers)
        self.in_channels = in_channels
        self.smallest = 2 ** (halvings - 1) + 1

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, in_channels, height, width]."""
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
