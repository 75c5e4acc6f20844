"""Parameters in networks as people write them: shared, read by themselves, made on the way, given to layers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from exact_cuts import check_gated
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import relu
from user_networks import Network, conv, gate, head

from greenprune_core.cost import ExpectedCost, count_cost, estimate_energy, load_profile
from greenprune_core.errors import UnsupportedNetworkError
from greenprune_core.extract import extract
from greenprune_core.gates import GatedNetwork, attach_gates


def three_convolutions(forward: Callable[[Any, Tensor], Tensor], **more: Any) -> GatedNetwork:
    return gate(Network(forward, a=conv(3), b=conv(8), c=conv(8), h=head(), **more))


def in_a_row(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.d(relu(s.c(relu(s.b(relu(s.a(x)))))))))


def test_layers_that_share_weights_share_them_after_the_cut() -> None:
    network = Network(in_a_row, a=conv(3), b=conv(8), c=conv(8), d=conv(8), h=head())
    network.c.weight = network.b.weight
    gated = gate(network)
    check_gated(gated)
    static = extract(gated, {"d": torch.arange(8) < 3})
    assert static.get_parameter("c.weight") is static.get_parameter("b.weight")
    assert static.get_parameter("c.bias") is not static.get_parameter("b.bias")


def tied_decoder(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.c(functional.conv2d(relu(s.b(s.a(x))), s.b.weight.transpose(0, 1), padding=1))))


def bias_again(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x))
    return s.h(relu(s.c(relu(s.b(x) + s.b.bias.view(1, -1, 1, 1)))))


def weights_before_the_layer(s: Any, x: Tensor) -> Tensor:
    size = s.b.weight.square().sum()
    return s.h(relu(s.c(relu(s.b(relu(s.a(x))))))) * (1 + size)


def scale_read_twice(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.c(relu(s.b(s.a(x) * s.scale))))) * s.scale.norm()


def scale_along_two_axes(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.c(relu(s.b(s.a(x) * s.scale)) * s.scale.view(1, 1, 8, 1))))


@pytest.mark.parametrize("forward", [tied_decoder, bias_again, weights_before_the_layer])
def test_a_layer_whose_weights_are_also_read_by_themselves_is_left_whole(
    forward: Callable[[Any, Tensor], Tensor],
) -> None:
    gated = three_convolutions(forward)
    assert gated.not_gated["b"] == "its weights are also read by themselves"
    assert gated.groups
    check_gated(gated)


@pytest.mark.parametrize("forward", [scale_read_twice, scale_along_two_axes])
def test_a_parameter_that_more_than_one_operation_reads_is_left_whole(
    forward: Callable[[Any, Tensor], Tensor],
) -> None:
    check_gated(three_convolutions(forward, scale=nn.Parameter(torch.rand(8, 1, 1))))


class Standardised(nn.Conv2d):
    """A convolution with weights of mean zero."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight, self.bias, padding=1)


def standardised(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.c(relu(s.b(relu(s.own(s.a(x))))))))


def padded(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.c(relu(s.b(relu(s.a(x) + functional.pad(s.own, (1, 1, 1, 1))))))))


def projected(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.c(relu(s.b(s.a(x) * s.linear(s.own)[:, :, None, None])))))


def projected_twice(s: Any, x: Tensor) -> Tensor:
    weight = s.second(relu(s.linear(s.own)))
    return s.h(relu(s.c(relu(s.b(s.a(x) * weight[:, :, None, None])))))


def constant(s: Any, x: Tensor) -> Tensor:
    ramp = torch.linspace(0, 1, 4, dtype=torch.float64)[None]
    return s.h(relu(s.c(relu(s.b(s.a(x) + s.linear(ramp)[:, :, None, None])))))


OF_CONSTANTS: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, Any]]] = {
    "standardised": (standardised, {"own": Standardised(8, 8, 3)}),
    "padded": (padded, {"own": nn.Parameter(torch.rand(1, 1, 6, 6))}),
    "projected": (projected, {"own": nn.Parameter(torch.rand(1, 4)), "linear": nn.Linear(4, 8)}),
    "projected_twice": (
        projected_twice,
        {"own": nn.Parameter(torch.rand(1, 4)), "linear": nn.Linear(4, 6), "second": nn.Linear(6, 8)},
    ),
    "constant": (constant, {"linear": nn.Linear(4, 8)}),
}


@pytest.mark.parametrize("name", OF_CONSTANTS)
def test_operations_on_parameters_and_constants_are_left_whole(name: str) -> None:
    forward, more = OF_CONSTANTS[name]
    gated = three_convolutions(forward, **more)
    assert "c" not in gated.not_gated or "b" not in gated.not_gated
    assert not {"own", "linear", "second"} & set(gated.groups)
    check_gated(gated)


VIEWS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "view": lambda s, x: x * s.scale.view(1, -1, 1, 1),
    "reshape with its size": lambda s, x: s.scale.reshape(8, 1, 1) * x,
    "sizes of the images": lambda s, x: x * s.scale.view(1, x.shape[1], 1, 1),
    "unsqueeze twice": lambda s, x: x + s.scale.unsqueeze(-1).unsqueeze(-1),
    "new axes": lambda s, x: x / (s.scale[None, :, None, None]),
    "read by two": lambda s, x: x * s.scale.view(-1, 1, 1) + s.scale.view(-1, 1, 1),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_parameter_that_is_viewed_before_it_scales_channels_is_cut_with_them(name: str) -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        return s.h(s.b(VIEWS[name](s, relu(s.a(x)))))

    gated = gate(Network(forward, a=conv(3), b=conv(8), h=head(), scale=nn.Parameter(torch.ones(8))))
    assert gated.groups == {"a": 8, "b": 8}
    check_gated(gated)
    half = torch.arange(8) < 4
    assert extract(gated, {"a": half}).get_parameter("scale").shape == (4,)
    assert gated.network.get_parameter("scale").shape == (8,)


NOT_VIEWS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "turned round": lambda s, x: x * s.scale.flip(0).view(1, -1, 1, 1),
    "part of it": lambda s, x: x * torch.cat([s.scale[:4], s.scale[:4]]).view(1, -1, 1, 1),
    "computed": lambda s, x: x * s.scale.view(1, -1, 1, 1).exp(),
    "along the rows of images": lambda s, x: x * s.scale.view(-1, 1) + s.scale.view(-1, 1, 1),
    "of two axes": lambda s, x: x * s.scale.view(2, 4).t().reshape(1, 8, 1, 1),
}


@pytest.mark.parametrize("name", NOT_VIEWS)
def test_a_parameter_that_is_more_than_viewed_is_left_whole(name: str) -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        return s.h(s.b(NOT_VIEWS[name](s, relu(s.a(x)))))

    gated = gate(Network(forward, a=conv(3), b=conv(8), h=head(), scale=nn.Parameter(torch.ones(8))))
    assert gated.groups == {"b": 8}
    check_gated(gated)


def places_beside_channels(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.b(torch.cat([relu(s.a(x)), s.places.expand(x.shape[0], -1, -1, -1)], 1))))


def test_a_buffer_that_is_viewed_by_the_number_of_images_is_refused_with_the_way_out() -> None:
    network = Network(places_beside_channels, a=conv(3), b=conv(10), h=head())
    network.register_buffer("places", torch.randn(1, 2, 8, 8))
    with pytest.raises(UnsupportedNetworkError, match="make it a parameter with requires_grad=False"):
        gate(network)
    del network.places
    network.places = nn.Parameter(torch.randn(1, 2, 8, 8), requires_grad=False)
    gated = gate(network)
    assert set(gated.groups) == {"a", "b"}
    check_gated(gated)


MAPS: dict[str, tuple[Callable[[Any, Tensor], Tensor], tuple[int, ...]]] = {
    "over places": (lambda s, x: s.h(relu(s.b(relu(s.a(x)) * s.map))), (8, 8)),
    "over channels and places": (lambda s, x: s.h(relu(s.b(relu(s.a(x)) * s.map))), (8, 8, 8)),
    "over channels": (lambda s, x: s.h(relu(s.b(relu(s.a(x)) * s.map))), (1, 8, 1, 1)),
    "over channels, viewed": (lambda s, x: s.h(relu(s.b(relu(s.a(x)) * s.map.view(8, 1, 1)))), (1, 8)),
    "beside the channels": (
        lambda s, x: s.h(relu(s.c(torch.cat([relu(s.a(x)), s.map.expand(x.shape[0], -1, -1, -1)], 1)))),
        (1, 2, 8, 8),
    ),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_parameter_costs_the_joules_of_what_is_kept_of_it(name: str) -> None:
    forward, shape = MAPS[name]
    network = Network(forward, a=conv(3), b=conv(8), c=conv(10), map=nn.Parameter(torch.rand(shape)), h=head())
    images = torch.randn(1, 3, 8, 8)
    gated = attach_gates(network, images)
    masks = {"a": torch.arange(8) < 3}
    profile = load_profile("horowitz-45nm")
    joules = estimate_energy(count_cost(extract(gated, masks), images), profile).joules
    expected = ExpectedCost(gated.structure, "joules", profile)(gated.flatten_masks(masks))
    assert float(expected) == pytest.approx(joules, rel=1e-6)
