"""What tracing alone would lose or say badly: parts without gradients, layers that the network does not know of."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from exact_cuts import IMAGES, check_gated
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import relu
from torchvision.models import SwinTransformer
from torchvision.ops import stochastic_depth
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


def noisy(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x))
    return s.h(relu(s.b(x + 0.1 * torch.randn_like(x) if s.training else x)))


def noisy_beside_dropout(s: Any, x: Tensor) -> Tensor:
    return noisy(s, s.drop(x))


def dropping_attention(s: Any, x: Tensor) -> Tensor:
    t = s.drop(relu(s.a(x)).flatten(2).transpose(1, 2))
    t = functional.scaled_dot_product_attention(t, t, t, dropout_p=s.rate if s.training else 0.0)
    return s.h(relu(s.b(t.transpose(1, 2).unflatten(2, (8, 8)))))


def dropping_paths_that_cannot_be_traced(s: Any, x: Tensor) -> Tensor:
    x, y = relu(s.a(x)), s.b(x)
    if s.training:
        y = y * torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype).round()
    return s.h(x + y)


def dropping_paths_by_torchvision(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x))
    return s.h(x + stochastic_depth(s.b(x), 0.5, "row", training=s.training))


@pytest.mark.parametrize(
    ("forward", "lost"),
    [
        (noisy, r"\(randn_like\)"),
        (noisy_beside_dropout, r"\(randn_like\)"),
        (dropping_attention, r"\(scaled_dot_product_attention with dropout_p\)"),
        (dropping_paths_that_cannot_be_traced, "by itself where"),
        (dropping_paths_by_torchvision, r"\(bernoulli_\)"),
    ],
)
def test_what_forward_draws_in_training_is_refused_where_it_would_be_lost(forward: Function, lost: str) -> None:
    network = Drawing(forward)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(UnsupportedNetworkError, match=f"drawn by layers of torch.*{lost}"):
        attach_gates(network, IMAGES[:1].float())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_dropout_inside_a_function_that_is_not_traced_into_is_found_by_its_rate(rate: float) -> None:
    network = SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=5, dropout=rate, stochastic_depth_prob=0.2)
    if rate:
        with pytest.raises(UnsupportedNetworkError, match=r"\(shifted_window_attention\)"):
            attach_gates(network, torch.randn(1, 3, 32, 32))
    else:
        assert attach_gates(network, torch.randn(1, 3, 32, 32), "both").groups


def dropping_by_a_function(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.b(functional.dropout(relu(s.a(s.drop(x))), s.rate, s.training))))


def attention_that_drops_nothing(s: Any, x: Tensor) -> Tensor:
    t = relu(s.a(x)).flatten(2).transpose(1, 2)
    t = functional.scaled_dot_product_attention(t, t, t, dropout_p=s.rate * 0 if s.training else 0.0)
    return s.h(relu(s.b(t.transpose(1, 2).unflatten(2, (8, 8)))))


@pytest.mark.parametrize("forward", [dropping_by_a_function, attention_that_drops_nothing])
def test_what_the_graph_draws_too_is_followed(forward: Function) -> None:
    assert "b" in attach_gates(Drawing(forward), IMAGES[:1].float()).groups


class Drawing(nn.Module):
    """Two convolutions, a dropout, and a forward that asks for its mode."""

    def __init__(self, forward: Function) -> None:
        super().__init__()
        self.a, self.b, self.h, self.drop, self.rate = conv(3), conv(3), head(), nn.Dropout(0.2), 0.3
        if forward is not dropping_paths_that_cannot_be_traced:
            self.b = conv(8)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        assert self.training in (True, False)
        return self._forward(self, x)


def test_sizes_that_are_unpacked_by_a_star_are_refused_with_the_way_out() -> None:
    network = Network(lambda s, x: s.h(relu(s.a(x)).flatten(2).view(-1, 8, *x.shape[2:])), a=conv(3), h=head())
    with pytest.raises(UnsupportedNetworkError, match="name sizes one by one"):
        attach_gates(network, IMAGES[:1].float())


def test_layers_in_a_list_of_python_are_refused_with_the_way_out() -> None:
    hidden = [conv(8)]
    network = Network(lambda s, x: s.h(relu(hidden[0](relu(s.a(x))))), a=conv(3), h=head())
    with pytest.raises(UnsupportedNetworkError, match=r"torch\.nn\.ModuleList"):
        attach_gates(network, IMAGES[:1].float())


def some_of_the_layers(s: Any, x: Tensor) -> Tensor:
    x = s.layers[:2](x)
    return s.h(x + s.layers[2:](x))


def test_a_part_of_a_sequence_of_layers_is_followed() -> None:
    network = Network(
        some_of_the_layers, layers=nn.Sequential(conv(3), nn.ReLU(), conv(8), nn.ReLU(), conv(8)), h=head()
    )
    gated = gate(network)
    assert set(gated.groups) == {"layers.0", "layers.2"}
    check_gated(gated)
    static = extract(gated, {"layers.2": torch.arange(8) < 3})
    assert torch.equal(pickle.loads(pickle.dumps(static))(IMAGES), static(IMAGES))
