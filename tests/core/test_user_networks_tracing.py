"""What tracing alone would lose or say badly: parts without gradients, layers that the network does not know of."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from exact_cuts import IMAGES, check_gated
from torch import Tensor, nn
from torch.nn.functional import relu
from user_networks import Network, conv, gate, head

from greenprune_core.errors import UnsupportedNetworkError
from greenprune_core.extract import extract
from greenprune_core.gates import attach_gates

Function = Callable[[Any, Tensor], Tensor]


def frozen_stem(s: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = relu(s.a(x))
    return s.h(relu(s.b(x)) + x.mean())


def frozen_parts_of_a_tuple(s: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        parts = s.a(x).chunk(2, 1)
        n_channels = parts[0].shape[1]
    return s.h(relu(s.b(torch.cat([parts[0] / n_channels, parts[1]], 1))))


def frozen_scale(s: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = relu(s.a(x)) * s.scale
    return s.h(relu(s.b(x)) * s.scale)


@pytest.mark.parametrize("forward", [frozen_stem, frozen_parts_of_a_tuple, frozen_scale])
def test_what_forward_runs_without_gradients_is_not_trained(forward: Function) -> None:
    network = Network(forward, a=conv(3), b=conv(8), scale=nn.Parameter(torch.ones(8, 1, 1)), h=head())
    gated = gate(network)
    static = extract(gated, {})
    expected = gradients(network)
    assert expected.keys() >= {"b.weight"}
    assert "a.weight" not in expected
    for other in (gated.network, static):
        found = gradients(other)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient)
    check_gated(gated)


def gradients(network: nn.Module) -> dict[str, Tensor]:
    network.zero_grad()
    network.train()(IMAGES.clone()).square().sum().backward()
    return {name: part.grad for name, part in network.named_parameters() if part.grad is not None}


def test_gates_that_are_attached_without_gradients_leave_the_network_its_own() -> None:
    network = Network(lambda s, x: s.h(relu(s.b(relu(s.a(x))))), a=conv(3), b=conv(8), h=head()).double()
    with torch.no_grad():
        gated = attach_gates(network, IMAGES[:1])
    assert gradients(gated.network).keys() == gradients(network).keys()


def test_sizes_that_are_unpacked_by_a_star_are_refused_with_the_way_out() -> None:
    network = Network(lambda s, x: s.h(relu(s.a(x)).flatten(2).view(-1, 8, *x.shape[2:])), a=conv(3), h=head())
    with pytest.raises(UnsupportedNetworkError, match="name sizes one by one"):
        attach_gates(network, IMAGES[:1].float())


def test_layers_in_a_list_of_python_are_refused_with_the_way_out() -> None:
    hidden = [conv(8)]
    network = Network(lambda s, x: s.h(relu(hidden[0](relu(s.a(x))))), a=conv(3), h=head())
    with pytest.raises(UnsupportedNetworkError, match=r"torch\.nn\.ModuleList"):
        attach_gates(network, IMAGES[:1].float())
