"""Networks cut by several masks, each of which must leave the outputs as they were."""

from typing import Literal

import torch
from gated_cases import MASK_KINDS, make_masks
from torch import Tensor, nn

from greenprune_core.errors import ConfigError
from greenprune_core.extract import extract, verify
from greenprune_core.gates import GatedNetwork, attach_gates


def check_cuts(
    network: nn.Module, granularity: Literal["channel", "layer", "both"] = "channel", *, streams: bool = True
) -> GatedNetwork:
    """Gate a network of 8 x 8 images and hold open gates against the dense network, and cuts against frozen gates."""
    torch.manual_seed(0)
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    network = network.double().eval()
    gated = attach_gates(network, images[:1], granularity, streams=streams).eval()
    gated.freeze({})
    torch.testing.assert_close(gated(images.clone()), network(images.clone()), rtol=0, atol=1e-10)
    n_cut = 0
    for masks in [make_masks(gated, kind, seed) for kind in MASK_KINDS[:3] for seed in (0, 1)] + [_closed(gated)]:
        try:
            static = extract(gated, masks)
        except ConfigError:
            continue  # no path from input to output is left
        verify(gated, static, images, 1e-10)
        n_cut += 1
    assert n_cut >= 3
    return gated


def _closed(gated: GatedNetwork) -> dict[str, Tensor]:
    is_branch = {name: kind == "branch" for name, kind in gated.structure.kinds.items()}
    return {name: torch.full((n,), not is_branch[name]) for name, n in gated.groups.items()}
