"""Fixed splits: which images validate, decided by a seed and the labels alone."""

import torch
from torch import Tensor

from greenprune_core.errors import DataError


def stratified_split(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split image indices so that every class gives the same share.

    Args:
        labels: int64[N].
        share: Share that goes to the second part, in (0, 1).
        seed: Equal seeds and labels give equal splits on every device.

    Returns:
        Indices of the first and of the second part, each in ascending order.

    Raises:
        DataError: one of the parts would be empty.
    """
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    second = torch.zeros(len(labels), dtype=torch.bool)
    by_class = order[torch.sort(labels[order], stable=True).indices]
    for members in torch.split(by_class, torch.bincount(labels).tolist()):
        second[members[: round(share * len(members))]] = True
    if bool(second.all()) or not bool(second.any()):
        raise DataError(
            f"both parts of a split need an image, but {share} of {len(labels)} images leaves one empty; "
            "use more images or another share"
        )
    return (~second).nonzero().flatten(), second.nonzero().flatten()
