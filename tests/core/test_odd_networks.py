"""Networks of odd structure are cut exactly, learn alike after the cut, and cost what is expected of them."""

import itertools

import pytest
import torch
from gated_cases import MASK_KINDS, enliven, make_masks, still
from odd_networks import ODD
from torch import Tensor, nn
from torch.nn import functional

from greenprune_core.cost import ExpectedCost, count_cost
from greenprune_core.errors import ConfigError
from greenprune_core.extract import extract, slice_like, verify
from greenprune_core.gates import GatedNetwork, attach_gates


def gated_case(name: str, granularity: str) -> tuple[GatedNetwork, Tensor]:
    torch.manual_seed(0)
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    network = enliven(ODD[name]().double(), images).eval()
    return attach_gates(network, images[:1], granularity), images  # type: ignore[arg-type]


def cases(gated: GatedNetwork) -> list[tuple[str, int]]:
    has_inner = "inner" in gated.structure.kinds.values()
    return [(kind, seed) for kind in MASK_KINDS if has_inner or kind != "one group closed" for seed in (0, 1)]


@pytest.mark.parametrize("granularity", ["channel", "both"])
@pytest.mark.parametrize("name", ODD)
def test_odd_networks_are_cut_exactly_and_cost_what_is_expected(name: str, granularity: str) -> None:
    gated, images = gated_case(name, granularity)
    expected = {unit: ExpectedCost(gated.structure, unit) for unit in ("macs", "params")}  # type: ignore[arg-type]
    n_cut = 0
    for kind, seed in cases(gated):
        masks = make_masks(gated, kind, seed)
        try:
            static = extract(gated, masks)
        except ConfigError:
            with pytest.raises(ConfigError, match="needs a path"):
                extract(gated, masks)
            continue
        n_cut += 1
        verify(gated, static, images, 1e-10)
        verify(gated, static, torch.cat([images, images + 1]), 1e-10)
        if all(mask.any() for mask in masks.values()) or kind == "branches closed":
            counted = count_cost(static, images[:1])
            for unit, cost in expected.items():
                assert float(cost(gated.flatten_masks(masks))) == pytest.approx(getattr(counted, unit)), (kind, unit)
    assert n_cut >= 4


@pytest.mark.parametrize("name", ODD)
def test_a_gradient_step_of_odd_networks_is_that_of_the_frozen_one(name: str) -> None:
    gated, images = gated_case(name, "both")
    static = extract(gated, make_masks(gated, "random halves"))
    for network in (still(gated), still(static)):
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        functional.cross_entropy(network(images), torch.arange(3)).backward()
        optimiser.step()
    expected = slice_like(gated, static, dict(gated.named_parameters()))
    assert set(expected) == {name for name, _ in static.named_parameters()}
    for parameter_name, parameter in static.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[parameter_name], rtol=1e-8, atol=1e-10)


def test_layers_that_two_branches_share_stay_while_one_of_them_does() -> None:
    gated, images = gated_case("SharedBranch", "layer")
    first, second = gated.groups
    shut = torch.zeros(1, dtype=torch.bool)
    params = ExpectedCost(gated.structure, "params")
    for masks, is_there in (({first: shut}, True), ({second: shut}, True), ({first: shut, second: shut}, False)):
        static = extract(gated, masks)
        verify(gated, static, images, 1e-10)
        assert any(name.startswith("block") for name, _ in static.named_parameters()) == is_there
        n_params = sum(parameter.numel() for parameter in static.parameters())
        assert float(params(gated.flatten_masks(masks))) == n_params


class OneForTwo(nn.Module):
    """A layer that two branches read and the rest of the network does not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.before = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.one, self.two = nn.Conv2d(6, 8, 1), nn.Sequential(nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1))
        self.classify = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = functional.relu(self.before(x))
        return self.classify((x + self.one(y) + self.two(y)).mean((2, 3)))


@pytest.mark.parametrize("unit", ["macs", "params"])
def test_what_two_branches_read_costs_while_one_of_them_is_open(unit: str) -> None:
    torch.manual_seed(0)
    images = torch.zeros(1, 3, 8, 8)
    gated = attach_gates(OneForTwo(), images, "layer")
    expected = ExpectedCost(gated.structure, unit)  # type: ignore[arg-type]
    for opens in itertools.product([False, True], repeat=2):
        masks = {name: torch.tensor([is_open]) for name, is_open in zip(gated.groups, opens, strict=True)}
        counted = count_cost(extract(gated, masks), images)
        assert float(expected(torch.tensor(opens))) == pytest.approx(getattr(counted, unit)), opens
