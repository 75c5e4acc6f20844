"""The expected cost: at hard masks that of the cut network, in between multilinear and differentiable."""

import dataclasses
import time

import pytest
import torch
from torch import nn

from greenprune_core.config import NetworkConfig
from greenprune_core.cost import ExpectedCost, LargestShare, count_cost, estimate_energy, load_profile
from greenprune_core.cost.profile import Quantity
from greenprune_core.errors import ConfigError
from greenprune_core.extract import extract
from greenprune_core.gates import attach_gates
from greenprune_core.networks import build_network

REFERENCE = load_profile("horowitz-45nm")
TIMED = "amd-epyc-zen5-1-thread"


def gated_network(name, width=8, image_size=16, **gating):
    config = NetworkConfig(name=name, width=width)
    network = build_network(config, n_classes=10, in_channels=3, image_size=image_size)
    return attach_gates(network, torch.zeros(1, 3, image_size, image_size), **gating)


def random_masks(gated, seed, keep):
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, size in gated.groups.items():
        mask = torch.rand(size, generator=generator) < keep
        if not name.startswith("branch:"):
            mask[torch.randint(size, (), generator=generator)] = True
        masks[name] = mask
    return masks


def flat(masks):
    return torch.cat([mask.reshape(-1) for mask in masks.values()])


CASES = [
    ("cifar_resnet8", {"granularity": "channel", "streams": False}),
    ("cifar_resnet8", {"granularity": "channel", "streams": True}),
    ("cifar_resnet14", {"granularity": "layer"}),
    ("cifar_resnet14", {"granularity": "both", "streams": True}),
    ("cifar_vgg11", {"granularity": "channel"}),
    pytest.param("torchvision/shufflenet_v2_x0_5", {"granularity": "both"}, marks=pytest.mark.slow),
    pytest.param("torchvision/mobilenet_v3_small", {"granularity": "both"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "gating"), CASES)
def test_at_hard_masks_it_equals_the_cost_of_the_cut_network(name, gating):
    size = 32 if "vgg" in name or "torchvision" in name else 16
    gated = gated_network(name, width=16 if "torchvision" in name else 8, image_size=size, **gating)
    costs = {
        "macs": ExpectedCost(gated.structure, "macs"),
        "params": ExpectedCost(gated.structure, "params"),
        "joules": ExpectedCost(gated.structure, "joules", REFERENCE),
    }
    for seed, keep in enumerate((1.0, 0.9, 0.5, 0.2, 0.05)):
        masks = random_masks(gated, seed, keep)
        cut = count_cost(extract(gated, masks), torch.zeros(1, 3, size, size))
        truth = {"macs": cut.macs, "params": cut.params, "joules": estimate_energy(cut, REFERENCE).joules}
        for unit, expected in costs.items():
            assert float(expected(flat(masks))) == pytest.approx(truth[unit], rel=1e-6), (unit, keep)


def test_dense_is_the_cost_of_the_dense_network():
    gated = gated_network("cifar_resnet56", width=16, image_size=32)
    assert ExpectedCost(gated.structure, "macs").dense == 125_485_696
    assert ExpectedCost(gated.structure, "params").dense == 853_018


def test_it_is_vectorised_over_leading_dimensions():
    expected = ExpectedCost(gated_network("cifar_resnet8", granularity="both").structure, "macs")
    open_ = torch.rand(2, 3, expected.n_gates, dtype=torch.float64)
    batch = expected(open_)
    assert batch.shape == (2, 3)
    assert torch.allclose(batch[1, 2], expected(open_[1, 2]), rtol=1e-12)


def test_its_gradient_is_the_cost_of_one_more_gate():
    """Multilinear: the slope along one gate is the difference between its two hard values."""
    expected = ExpectedCost(gated_network("cifar_resnet8", granularity="both").structure, "joules", REFERENCE)
    open_ = torch.rand(expected.n_gates, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(expected(open_), open_)
    for gate in (0, expected.n_gates // 2, expected.n_gates - 1):
        shut, opened = open_.detach().clone(), open_.detach().clone()
        shut[gate], opened[gate] = 0.0, 1.0
        if gate == expected.n_gates - 1:
            assert slope[gate] == pytest.approx(float(expected(opened) - expected(shut)), rel=1e-9)
        assert slope[gate] > 0


def test_an_inner_channel_is_a_product_of_both_sides():
    """Worked out by hand: 1x1 convolutions 3 -> 4 -> 5 on 2x2 pixels, the four in between gated."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 5, 1, bias=False))
    gated = attach_gates(network, torch.zeros(1, 3, 2, 2))
    expected = ExpectedCost(gated.structure, "macs")
    open_ = torch.tensor([0.5, 1.0, 0.0, 0.25], dtype=torch.float64)
    assert float(expected(open_)) == pytest.approx(4 * (3 * 1.75 + 1.75 * 5))


def test_the_largest_share_is_that_of_the_cost_that_binds_and_presses_on_its_gates():
    """Worked out by hand: 1x1 convolutions 3 -> 4 on 4x4 pixels and 4 -> 8 -> 3 on one, where most weights are."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Conv2d(4, 8, 1, bias=False), nn.ReLU(),
        nn.Conv2d(8, 3, 1, bias=False),
    )  # fmt: skip
    gated = attach_gates(network, torch.zeros(1, 3, 4, 4))
    share = LargestShare([ExpectedCost(gated.structure, "macs"), ExpectedCost(gated.structure, "params")])
    early, late = (gated.group_slices[name] for name in gated.groups)
    open_ = torch.ones(gated.n_gates, dtype=torch.float64)
    assert float(share(open_)) == 1.0
    open_[early] = 0.5  # of 16 * 12 + 32 + 24 MACs and 12 + 32 + 24 weights
    open_.requires_grad_()
    value = share(open_)
    value.backward()
    assert value.item() == pytest.approx((6 + 16 + 24) / 68), "the weights of the late layers are left"
    slope = torch.tensor([open_.grad[early].sum(), open_.grad[late].sum()]) * 68
    assert slope.tolist() == pytest.approx([12 + 32, 16 + 24])


def test_a_call_takes_well_under_a_millisecond_for_resnet56():
    expected = ExpectedCost(gated_network("cifar_resnet56", width=16, image_size=32).structure, "joules", REFERENCE)
    open_ = torch.rand(expected.n_gates).requires_grad_()
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        expected(open_).backward()
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1e-3


TIMED_CASES = [
    ("cifar_resnet14", {"granularity": "both", "streams": True}, 16),
    ("cifar_vgg11", {"granularity": "channel"}, 32),
    pytest.param("torchvision/shufflenet_v2_x0_5", {"granularity": "both"}, 32, marks=pytest.mark.slow),
    pytest.param("torchvision/mobilenet_v3_small", {"granularity": "both"}, 32, marks=pytest.mark.slow),
    pytest.param("torchvision/densenet121", {"granularity": "both"}, 32, marks=pytest.mark.slow),
]


def with_priced_time():
    static = Quantity(value=65.0, source="a test")
    return dataclasses.replace(REFERENCE, static_power_w=static, timings=load_profile(TIMED).timings)


@pytest.mark.parametrize(("name", "gating", "size"), TIMED_CASES)
def test_joules_of_time_round_channels_up_to_lanes_as_in_the_cut_network(name, gating, size):
    profile = with_priced_time()
    assert profile.timing(1).lanes == 8
    gated = gated_network(name, width=16 if "torchvision" in name else 24, image_size=size, **gating)
    expected = ExpectedCost(gated.structure, "joules", profile)
    for seed, keep in enumerate((1.0, 0.8, 0.5, 0.2)):
        masks = random_masks(gated, seed, keep)
        joules = estimate_energy(count_cost(extract(gated, masks), torch.zeros(1, 3, size, size)), profile).joules
        assert float(expected(flat(masks))) == pytest.approx(joules, rel=1e-6), keep
    assert expected.dense == pytest.approx(float(expected(torch.ones(expected.n_gates, dtype=torch.float64))))


def test_a_gate_that_leaks_a_little_costs_no_block_of_lanes():
    expected = ExpectedCost(gated_network("cifar_resnet8", width=16).structure, "joules", with_priced_time())
    hard = torch.zeros(expected.n_gates, dtype=torch.float64)
    hard[::2] = 1.0
    assert float(expected(hard + (1 - hard) * 1e-3)) == pytest.approx(float(expected(hard)), rel=1e-2)


def test_joules_of_time_have_a_slope_between_the_steps_of_the_lanes():
    expected = ExpectedCost(gated_network("cifar_resnet8", width=16).structure, "joules", with_priced_time())
    open_ = torch.full((expected.n_gates,), 0.6, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(expected(open_), open_)
    assert (slope > 0).all()


def test_float32_gates_give_float32_and_masks_give_float64():
    expected = ExpectedCost(gated_network("cifar_resnet8").structure)
    assert expected(torch.ones(expected.n_gates)).dtype == torch.float32
    assert expected(torch.ones(expected.n_gates, dtype=torch.bool)).dtype == torch.float64


def test_wrong_units_profiles_and_shapes_are_refused():
    structure = gated_network("cifar_resnet8").structure
    with pytest.raises(ConfigError, match="macs, params or joules"):
        ExpectedCost(structure, "watts")
    with pytest.raises(ConfigError, match="need a device profile"):
        ExpectedCost(structure, "joules")
    with pytest.raises(ConfigError, match="other units take none"):
        ExpectedCost(structure, "macs", REFERENCE)
    with pytest.raises(ConfigError, match="one value per gate"):
        ExpectedCost(structure)(torch.ones(3))
