"""Networks cut by several masks, each of which must leave the outputs as they were."""

from typing import Literal

import torch
from gated_cases import MASK_KINDS, make_masks
from torch import Tensor, nn

from greenprune_core.errors import ConfigError
from greenprune_core.extract import extract, verify
from greenprune_core.gates import GatedNetwork, attach_gates

Granularity = Literal["channel", "layer", "both"]

IMAGES = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def check_cuts(network: nn.Module, granularity: Granularity = "channel", *, streams: bool = True) -> GatedNetwork:
    """Gate a network of 8 x 8 images and check it."""
    torch.manual_seed(0)
    gated = attach_gates(network.double().eval(), IMAGES[:1], granularity, streams=streams)
    check_gated(gated)
    return gated


def check_gated(gated: GatedNetwork) -> None:
    """Hold open gates against the dense network and cuts against frozen gates, and take a gradient."""
    gated.eval().freeze({})
    torch.testing.assert_close(gated(IMAGES.clone()), gated.network(IMAGES.clone()), rtol=0, atol=1e-10)
    n_cut = 0
    for masks in [make_masks(gated, kind, seed) for kind in MASK_KINDS[:3] for seed in (0, 1)] + [_closed(gated)]:
        try:
            static = extract(gated, masks)
        except ConfigError:
            continue  # no path from input to output is left
        verify(gated, static, IMAGES, 1e-10)
        n_cut += 1
    assert n_cut >= 3
    gated.release_gates()
    gated.train()(IMAGES).sum().backward()


def _closed(gated: GatedNetwork) -> dict[str, Tensor]:
    is_branch = {name: kind == "branch" for name, kind in gated.structure.kinds.items()}
    return {name: torch.full((n,), not is_branch[name]) for name, n in gated.groups.items()}
