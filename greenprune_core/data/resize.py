"""Change the side of square images: pool down by a whole factor, or pad up with zeros."""

import torch
from torch import Tensor
from torch.nn import functional

from greenprune_core.errors import DataError


def resize(images: Tensor, image_size: int | None, where: str) -> Tensor:
    """Return images [N, C, S, S] with S = image_size; None keeps them.

    Smaller sides are averages over whole blocks (28 -> 14), as float32 in [0, 1] where the input was uint8. Larger
    sides are padded with zeros on all four sides (28 -> 32), in the input's type.

    Raises:
        DataError: the images are not square, or their side is neither a multiple of nor below image_size.
    """
    height, width = images.shape[-2:]
    if image_size is None or (height == width == image_size):
        return images
    if image_size < 1 or height != width or (image_size < height and height % image_size):
        divisors = [str(side) for side in range(2, height + 1) if height % side == 0]
        raise DataError(
            f"image_size is a divisor of the images' side or larger than it, but got image_size={image_size} for the "
            f"{height}x{width} images of {where}; take one of {', '.join(divisors)} or more than {height}"
        )
    if image_size > height:
        before = (image_size - height) // 2
        after = image_size - height - before
        return functional.pad(images, (before, after, before, after))
    scaled = images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images
    return functional.avg_pool2d(scaled, height // image_size)
