"""Fixed splits: which images validate, decided by a seed and the labels alone."""

import torch
from torch import Tensor

from greenprune_core.errors import DataError


def stratified_split(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split image indices so that every class gives the same share, to within one image.

    Images are put in random order, then sorted by class, and taken at equal distances: sets with few images per class
    keep the share as a whole.

    Args:
        labels: int64[N].
        share: Share that goes to the second part, in (0, 1).
        seed: Equal seeds and labels give equal splits on every device.

    Returns:
        Indices of the first and of the second part, each in ascending order.

    Raises:
        DataError: there are fewer than two images.
    """
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    if len(labels) < 2:
        raise DataError(f"a split needs two images, but got {len(labels)}; use more images")
    by_class = order[torch.sort(labels[order], stable=True).indices]
    n_second = min(max(1, round(share * len(labels))), len(labels) - 1)
    second = torch.zeros(len(labels), dtype=torch.bool)
    second[by_class[((torch.arange(n_second) + 0.5) * len(labels) / n_second).long()]] = True
    return (~second).nonzero().flatten(), second.nonzero().flatten()
