"""Layers of torch as people call them: on inputs with fewer axes, in training only, with attention over images."""

from collections.abc import Callable
from typing import Any

import pytest
from exact_cuts import check_gated
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import relu
from user_networks import Network, conv, gate

Function = Callable[[Any, Tensor], Tensor]


def per_image(s: Any, x: Tensor) -> Tensor:
    return s.h(s.layer(s.b(relu(s.a(x)).mean((2, 3)))))


def per_image_by_a_function(s: Any, x: Tensor) -> Tensor:
    return s.h(functional.max_pool1d(s.b(relu(s.a(x)).mean((2, 3))), 2))


ONE_IMAGE: dict[str, tuple[Function, nn.Module | None, int]] = {
    "a function": (per_image_by_a_function, None, 8),
    "a pooling": (per_image, nn.MaxPool1d(2), 8),
    "an adaptive pooling": (per_image, nn.AdaptiveAvgPool1d(4), 4),
    "a padding": (per_image, nn.ZeroPad1d(2), 20),
    "a norm": (per_image, nn.InstanceNorm1d(16), 16),
}


@pytest.mark.parametrize("name", ONE_IMAGE)
def test_channels_are_left_open_where_a_layer_takes_them_for_places(name: str) -> None:
    forward, layer, n_read = ONE_IMAGE[name]
    layers = {"a": conv(3), "b": nn.Linear(8, 16), "h": nn.Linear(n_read, 5)}
    gated = gate(Network(forward, **layers, **({} if layer is None else {"layer": layer})))
    assert set(gated.groups) == {"a"}
    assert "not followed" in gated.not_gated["b"]
    check_gated(gated)
