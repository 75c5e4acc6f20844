"""Layers and functions of torch as people call them: on fewer axes, in training only, with attention over images."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from exact_cuts import IMAGES, check_gated
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import relu
from user_networks import Network, conv, gate, head

from greenprune_core.gates import HeadGate

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


def dropped(function: Callable[..., Tensor], **more: Any) -> Function:
    return lambda s, x: s.h(s.b(function(relu(s.a(x)), 0.5, s.training, **more)))


def dropped_volumes(s: Any, x: Tensor) -> Tensor:
    return s.h(s.b(functional.dropout3d(relu(s.a(x)).unsqueeze(2), 0.5, s.training).squeeze(2)))


def dropped_sequences(s: Any, x: Tensor) -> Tensor:
    return s.h(s.b(functional.dropout1d(relu(s.a(x)).flatten(2), training=s.training).unflatten(2, (8, 8))))


DROPOUTS: dict[str, Function] = {
    "dropout": dropped(functional.dropout),
    "dropout2d": dropped(functional.dropout2d),
    "alpha_dropout": dropped(functional.alpha_dropout),
    "feature_alpha_dropout": dropped(functional.feature_alpha_dropout),
    "torch.dropout": dropped(torch.dropout),
    "torch.dropout by name": lambda s, x: s.h(s.b(torch.dropout(relu(s.a(x)), p=0.5, train=s.training))),
    "dropout1d": dropped_sequences,
    "dropout3d": dropped_volumes,
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_every_functional_dropout_drops_in_training_what_the_network_drops(name: str) -> None:
    network = Network(DROPOUTS[name], a=conv(3), b=conv(8), h=head())
    gated = gate(network)
    assert set(gated.groups) == {"a", "b"}
    outputs = []
    for one in (network.train(), gated.train()):
        torch.manual_seed(0)
        outputs.append(one(IMAGES.clone()))
    torch.testing.assert_close(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], network.eval()(IMAGES))
    check_gated(gated)


def attention_over_images(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x)).mean((2, 3))
    return s.h(relu(s.b(x + s.attend(x, x, x)[0])))


def test_attention_whose_tokens_are_the_images_is_left_as_it_is() -> None:
    attend = nn.MultiheadAttention(8, 2, batch_first=True)
    gated = gate(Network(attention_over_images, a=conv(3), b=nn.Linear(8, 6), attend=attend, h=nn.Linear(6, 5)))
    assert set(gated.groups) == {"b"}
    assert isinstance(gated.network.get_submodule("attend"), nn.MultiheadAttention)
    check_gated(gated)


def sequences(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x.flatten(2)))
    return s.h((x + s.b(relu(x))).mean(2))


def channels_last(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x)).permute(0, 2, 3, 1)
    return s.h((x + s.b(relu(x))).mean((1, 2)))


def normed_channels_last(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x)).permute(0, 2, 3, 1)
    return s.h((x + s.b(functional.layer_norm(x, (8,)))).mean((1, 2)))


@pytest.mark.parametrize("granularity", ["layer", "both"])
@pytest.mark.parametrize(
    ("forward", "a", "b"),
    [
        (sequences, nn.Conv1d(3, 8, 1), nn.Conv1d(8, 8, 3, padding=1)),
        (channels_last, conv(3), nn.Linear(8, 8)),
        (normed_channels_last, conv(3), nn.Linear(8, 8)),
    ],
)
def test_a_branch_decides_on_the_channels_that_it_starts_from_whatever_their_axis(
    forward: Function, a: nn.Module, b: nn.Module, granularity: Any
) -> None:
    gated = gate(Network(forward, a=a, b=b, h=nn.Linear(8, 5)), granularity)
    decides = gated._group_gates["branch:b"].gate
    assert isinstance(decides, HeadGate)
    assert decides.squeeze.in_features == 8
    gated.release_gates()
    gated(torch.cat([IMAGES, IMAGES], 2))  # images of another height
    check_gated(gated)


def of_experts(s: Any, x: Tensor) -> Tensor:
    for expert in s.gates:
        x = relu(expert(x))
    return s.h(relu(s.network(x) * s.masks))


def test_layers_of_the_network_may_be_called_as_parts_of_a_gated_network_are() -> None:
    experts, masks = nn.ModuleList([conv(3), conv(8)]), nn.Parameter(torch.ones(8, 1, 1))
    gated = gate(Network(of_experts, gates=experts, network=conv(8), masks=masks, h=head()))
    assert set(gated.groups) == {"gates.0", "gates.1", "network"}
    check_gated(gated)
