"""Layers that drop whole images while training are kept, and saved, by whatever package they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from exact_cuts import IMAGES, check_cuts
from torch import Tensor, nn
from torch.nn.functional import relu
from torchvision.ops import StochasticDepth
from user_networks import Network, conv, head

from greenprune_core.extract import extract
from greenprune_core.gates import GatedNetwork
from greenprune_core.subnetwork import load_subnetwork, save_subnetwork


class DropPath(nn.Module):
    """As it is copied from one repository to the next."""

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        drawn = (keep + torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype)).floor_()
        return x.div(keep) * drawn


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rate = 0.2
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def residual(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x))
    return s.h(x + s.drop(s.b(x)))


def of_tokens(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x)).flatten(2).transpose(1, 2)
    return s.h((x + s.drop(s.m(x))).transpose(1, 2).unflatten(2, (8, 8)))


def network(drop: nn.Module, forward: Any = residual) -> nn.Module:
    torch.manual_seed(0)
    return Network(forward, a=conv(3), b=conv(8), m=nn.Linear(8, 8), drop=drop, h=head()).double()


def shares_dropped(network: nn.Module) -> Tensor:
    """Share of images whose branch is dropped, by the two values that their outputs take."""
    images = IMAGES[:1].expand(4000, -1, -1, -1)
    with torch.no_grad():
        values, counts = network.train()(images)[:, 0].round(decimals=9).unique(return_counts=True)
    assert len(values) == 2
    return counts.min() / 4000


@pytest.mark.parametrize("forward", [residual, of_tokens])
@pytest.mark.parametrize("drop", [StochasticDepth(0.2, "row"), DropPath(0.2)])
def test_images_are_dropped_in_training_as_the_network_says(drop: nn.Module, forward: Any) -> None:
    dense = network(drop, forward)
    gated = check_cuts(dense)
    assert type(dense.drop) is type(drop)
    for one in (dense, opened(gated), extract(gated, {})):
        assert float(shares_dropped(one)) == pytest.approx(0.2, abs=0.03)


def opened(gated: GatedNetwork) -> GatedNetwork:
    gated.open_gates()
    return gated


def test_torchvision_draws_the_same_images() -> None:
    dense = network(StochasticDepth(0.5, "row"))
    gated = opened(check_cuts(dense))
    answers = []
    for one in (dense, gated):
        torch.manual_seed(3)
        answers.append(one.train()(IMAGES))
    torch.testing.assert_close(*answers)


def test_a_branch_that_is_dropped_at_no_rate_is_saved_too(tmp_path: Path) -> None:
    static = extract(check_cuts(network(StochasticDepth(0.0, "row"))), {})
    save_subnetwork(tmp_path, static, IMAGES[:1], {})


@pytest.mark.parametrize("drop", [StochasticDepth(0.2, "row"), DropPath(0.2)])
def test_a_network_with_stochastic_depth_is_saved_as_layers_of_torch(drop: nn.Module, tmp_path: Path) -> None:
    static = extract(check_cuts(network(drop), "both"), {})
    save_subnetwork(tmp_path, static, IMAGES[:1], {})
    loaded = load_subnetwork(tmp_path)
    assert torch.equal(loaded(IMAGES), static.eval()(IMAGES))
    assert float(shares_dropped(loaded)) == pytest.approx(0.2, abs=0.03)


def test_what_drops_a_batch_as_one_stays_what_it_is() -> None:
    gated = check_cuts(network(StochasticDepth(0.2, "batch")))
    assert type(gated.network.get_submodule("drop")) is StochasticDepth


def test_a_layer_with_parameters_drops_nothing() -> None:
    assert check_cuts(network(Scale())).network.get_parameter("drop.scale").shape == (8, 1, 1)
