"""Several expected costs under one budget: what counts is the one that keeps the largest share of the dense network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from greenprune_core.cost.expected import ExpectedCost


class LargestShare(nn.Module):
    """The largest of several costs, each as a share of the dense network's: within a budget of it lies each of them.

    Differentiable like its parts, by the gates that the largest depends on: a budget presses on MACs where they bind
    and on parameters where those do. At hard masks it is exact, and opening a gate never lowers it.

    Args:
        costs: of the same structure.
    """

    dense = 1.0
    """The dense network's share."""

    def __init__(self, costs: Sequence[ExpectedCost]) -> None:
        super().__init__()
        self._costs = nn.ModuleList(costs)
        self._dense = [cost.dense for cost in costs]

    def forward(self, open_: Tensor) -> Tensor:
        """Return the largest share, Tensor[...], for open probabilities or masks Tensor[..., n_gates]."""
        shares = [cost(open_) / dense for cost, dense in zip(self._costs, self._dense, strict=True)]
        return torch.stack(shares).amax(0)
