"""The plain way to a cheaper network: every layer narrower by the same share, trained from fresh weights.

What a pruned network has to beat. Nothing is searched and no gate decides.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from greenprune_core.cost.expected import ExpectedCost
from greenprune_core.extract import extract
from greenprune_core.gates import GatedNetwork


def uniform_masks(gated: GatedNetwork, share: float) -> dict[str, Tensor]:
    """Keep the first channels of every group, the same share of each and at least one."""
    return {name: torch.arange(n) < max(1, round(share * n)) for name, n in gated.groups.items()}


def nearest_share(gated: GatedNetwork, cost: ExpectedCost, target: float) -> tuple[float, float]:
    """Find the share of channels per layer whose cost comes nearest to a target.

    Args:
        gated: a network with gates on its channels, on no branch.
        cost: of `gated.structure`, in the unit of the target.
        target: cost of one inference over the dense network's, in (0, 1].

    Returns:
        The share of channels, and the cost at it over the dense network's.
    """
    shares = sorted({k / size for size in gated.groups.values() for k in range(1, size + 1)})
    kept = {share: float(cost(_flat(gated, uniform_masks(gated, share)))) / cost.dense for share in shares}
    best = min(shares, key=lambda share: abs(kept[share] - target))
    return best, kept[best]


def cut_fresh(gated: GatedNetwork, masks: Mapping[str, Tensor], seed: int) -> nn.Module:
    """Cut to the masks' shape and draw all weights anew, as for a network of that size."""
    network = copy.deepcopy(extract(gated, masks))
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear | nn.modules.batchnorm._BatchNorm):
            module.reset_parameters()
    return network


def _flat(gated: GatedNetwork, masks: Mapping[str, Tensor]) -> Tensor:
    """Put masks into the order of the gates: float64[n_gates]."""
    flat = torch.zeros(gated.n_gates, dtype=torch.float64)
    for name, mask in masks.items():
        flat[gated.group_slices[name]] = mask.to(torch.float64)
    return flat
