"""Augmentation of whole batches on their device, with random changes of its own for every image."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Border = Literal["zero", "reflect"]


def flip_and_shift(images: Tensor, most: int, border: Border, generator: torch.Generator) -> Tensor:
    """Mirror images with probability ½, then move them by −most … most pixels along each axis.

    Args:
        images: [N, C, H, W] of any dtype.
        most: the largest shift; less than H and W where the border is reflected.
        border: what fills the uncovered pixels: black (zero), or the image mirrored at its border (reflect).
        generator: the random generator, on the images' device.

    Example:
        >>> import torch
        >>> from spl.data.augment import flip_and_shift
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
        >>> flip_and_shift(images, most=4, border="zero", generator=torch.Generator().manual_seed(0)).shape
        torch.Size([8, 3, 32, 32])
    """
    n, channels, height, width = images.shape
    device = images.device
    mirrored = torch.rand(n, generator=generator, device=device) < 0.5
    down, right = torch.randint(2 * most + 1, (2, n), generator=generator, device=device)
    padded = F.pad(images, [most] * 4) if border == "zero" else _reflect_pad(_reflect_pad(images, most, 2), most, 3)
    both = torch.stack([padded, padded.flip(-1)])
    # each row of the result is contiguous in `both`, so rows are copied whole, which is faster than pixel by pixel
    _, image, channel, row, column = both.stride()
    first = mirrored * both.stride(0) + torch.arange(n, device=device) * image + down * row + right * column
    rows = torch.arange(channels, device=device)[:, None] * channel + torch.arange(height, device=device) * row
    chosen = (first[:, None, None] + rows).flatten()
    return both.flatten().unfold(0, width, 1).index_select(0, chosen).view(images.shape)


def _reflect_pad(images: Tensor, most: int, axis: int) -> Tensor:
    """Continue images along an axis by their mirror images; PyTorch's reflection padding refuses bytes."""
    size = images.shape[axis]
    before = images.narrow(axis, 1, most).flip(axis)
    after = images.narrow(axis, size - 1 - most, most).flip(axis)
    return torch.cat([before, images, after], axis)


def cutout(images: Tensor, side: int, fill: Tensor, generator: torch.Generator) -> Tensor:
    """Blank a square whose centre is anywhere in the image (DeVries & Taylor 2017), so the border may cut it.

    Args:
        images: [N, C, H, W].
        side: side of the square, in pixels.
        fill: [C], the colour to fill it with.
        generator: the random generator, on the images' device.

    Example:
        >>> import torch
        >>> from spl.data.augment import cutout
        >>> image = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
        >>> black = torch.zeros(1, dtype=torch.uint8)
        >>> int((cutout(image, side=1, fill=black, generator=torch.Generator().manual_seed(0)) == 0).sum())
        1
    """
    n, _, height, width = images.shape
    device = images.device

    def inside(size: int) -> Tensor:
        first = torch.randint(size, (n, 1), generator=generator, device=device) - side // 2
        place = torch.arange(size, device=device)
        return (place >= first) & (place < first + side)

    square = inside(height)[:, None, :, None] & inside(width)[:, None, None, :]
    return torch.where(square, fill.view(-1, 1, 1), images)
