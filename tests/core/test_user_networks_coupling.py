"""Channels of networks as people write them: what cannot be followed is left dense, the rest is cut exactly."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from exact_cuts import IMAGES, check_gated
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import relu
from user_networks import Network, conv, gate, head, patches, tokens

from greenprune_core.errors import ConfigError, UnsupportedNetworkError
from greenprune_core.extract import extract, verify
from greenprune_core.gates import attach_gates


def attention(s: Any, x: Tensor) -> Tensor:
    x = tokens(s.a(x))
    b, t, _ = x.shape
    q, k, v = (part.view(b, t, 4, 2).transpose(1, 2) for part in s.project(x))
    x = x + s.o(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, 8))
    return s.h(relu(s.m(x)).mean(1))


class Three(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.q(x), self.k(x), self.v(x)


class Joint(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        q, k, v = self.qkv(x).chunk(3, -1)
        return q, k, v


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("projection", [Three, Joint])
def test_attention_that_a_user_wrote_keeps_its_heads(projection: type[nn.Module], streams: bool) -> None:
    layers = {"project": projection(), "o": nn.Linear(8, 8), "m": nn.Linear(8, 12), "h": nn.Linear(12, 5)}
    gated = gate(Network(attention, a=patches(), **layers), streams=streams)
    assert all("scaled_dot_product" in why for name, why in gated.not_gated.items() if name.startswith("project"))
    assert "m" in gated.groups
    check_gated(gated)


def shuffle_with_relu_inside(s: Any, x: Tensor) -> Tensor:
    n, c, h, w = (x := s.a(x)).shape
    return s.h(s.b(relu(x.view(n, 2, c // 2, h, w)).transpose(1, 2).reshape(n, c, h, w)))


def channels_to_the_last_axis(s: Any, x: Tensor) -> Tensor:
    n, c, h, w = (x := s.a(x)).shape
    x = x.view(n, 2, c // 2, h * w).permute(0, 3, 2, 1).flatten(2)
    return s.h(s.b(x.transpose(1, 2).reshape(n, c, h, w)))


@pytest.mark.parametrize("forward", [shuffle_with_relu_inside, channels_to_the_last_axis])
def test_channels_over_two_axes_are_only_followed_through_views(forward: Callable[[Any, Tensor], Tensor]) -> None:
    check_gated(gate(Network(forward, a=conv(3), b=conv(8), h=head(8))))


def channel_attention(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x))
    weight = s.layer(x.mean((2, 3)).unsqueeze(1)).squeeze(1).sigmoid()
    return s.h(relu(s.b(x * weight[:, :, None, None])))


def token_mixing(s: Any, x: Tensor) -> Tensor:
    x = tokens(s.a(x))
    return s.h(relu(s.b((x + s.layer(x.transpose(1, 2)).transpose(1, 2)).transpose(1, 2).view(-1, 8, 4, 4))))


def norm_of_tokens(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.b(s.layer(tokens(s.a(x))).transpose(1, 2).reshape(-1, 8, 4, 4))))


def literal_view(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.b(relu(s.layer(s.a(x).flatten(1).view(-1, 8, 4, 4))))))


def two_layouts(s: Any, x: Tensor) -> Tensor:
    x = relu(s.layer(tokens(s.a(x))))
    return s.h(relu(s.b(relu(s.layer(x.transpose(1, 2))).view(-1, 16, 4, 4))))


UNFOLLOWED = {
    "channel_attention": (channel_attention, conv(3), nn.Conv1d(1, 1, 3, padding=1), conv(8)),
    "token_mixing": (token_mixing, patches(), nn.Linear(16, 16), conv(8)),
    "norm_of_tokens": (norm_of_tokens, patches(), nn.BatchNorm1d(16), conv(8)),
    "literal_view": (literal_view, patches(), nn.ConvTranspose2d(8, 8, 3), conv(8)),
    "two_layouts": (two_layouts, patches(16), nn.Linear(16, 16), conv(16)),
}


@pytest.mark.parametrize("name", UNFOLLOWED)
def test_a_layer_over_another_axis_than_its_channels_is_left_whole(name: str) -> None:
    forward, a, layer, b = UNFOLLOWED[name]
    gated = gate(Network(forward, a=a, layer=layer, b=b, h=head()))
    assert "b" in gated.groups
    check_gated(gated)


def half_of_a_chunk(s: Any, x: Tensor) -> Tensor:
    mean, _ = s.a(x).chunk(2, 1)
    return s.h(relu(s.b(mean + s.same(mean))))


def unused_head(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x))
    s.same(x)
    return s.h(relu(s.b(x)))


@pytest.mark.parametrize(("forward", "n_in", "unread"), [(half_of_a_chunk, 4, "a#2"), (unused_head, 8, "same")])
def test_channels_that_no_layer_reads_have_no_gate(
    forward: Callable[[Any, Tensor], Tensor], n_in: int, unread: str
) -> None:
    gated = gate(Network(forward, a=conv(3), same=conv(n_in, n_in), b=conv(n_in), h=head()))
    assert unread not in gated.groups
    assert gated.not_gated.get(unread, "read by no layer") == "read by no layer"
    check_gated(gated)


def weighted_by_attention(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x))
    weight = s.layer(x).sigmoid()
    return s.h((y := s.b(x)) + y * weight)


def shuffle_after_a_branch(s: Any, x: Tensor) -> Tensor:
    n, c, h, w = (x := s.a(x)).shape
    x = (x + relu(s.layer(x))).view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
    return s.h(relu(s.b(x)))


def halves_as_a_batch(s: Any, x: Tensor) -> Tensor:
    n = x.shape[0]
    x = relu(s.a(x)).view(n, 8, 2, 4, 8).transpose(1, 2).reshape(2 * n, 8, 4, 8)
    x = x + s.last(relu(s.layer(x)))
    return s.h(relu(s.b(x.view(n, 2, 8, 4, 8).transpose(1, 2).reshape(n, 8, 8, 8))))


@pytest.mark.parametrize("granularity", ["layer", "both"])
@pytest.mark.parametrize("forward", [weighted_by_attention, shuffle_after_a_branch, halves_as_a_batch])
def test_branches_are_gated_where_they_can_be_and_cut_exactly(
    forward: Callable[[Any, Tensor], Tensor], granularity: str
) -> None:
    network = Network(forward, a=conv(3), layer=conv(8), last=conv(8), b=conv(8), h=head())
    try:
        gated = gate(network, granularity)
    except UnsupportedNetworkError:
        assert granularity == "layer"
        assert forward is not shuffle_after_a_branch
    else:
        check_gated(gated)


def squeezed(s: Any, x: Tensor) -> Tensor:
    return s.c(relu(s.b(relu(s.a(x)).mean((2, 3), keepdim=True).squeeze())))


def test_a_channel_axis_of_one_is_not_squeezed_away() -> None:
    torch.manual_seed(0)
    network = Network(squeezed, a=conv(3), b=nn.Linear(8, 6), c=nn.Linear(6, 5)).double().eval()
    gated = attach_gates(network, IMAGES[:2])
    static = extract(gated, {"a": torch.arange(8) == 3})
    assert verify(gated, static, IMAGES, 1e-10) >= 0


def padded_channels(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.b(functional.pad(relu(s.a(x)), (0, 0, 0, 0, 1, 1)))))


def test_a_value_without_channels_is_refused_where_it_is_still_needed() -> None:
    gated = gate(Network(padded_channels, a=conv(3), b=conv(10), h=head()))
    with pytest.raises(ConfigError, match="close all of"):
        extract(gated, {"a": torch.zeros(8, dtype=torch.bool)})
    check_gated(gated)


def fewer_channels(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.b(functional.pad(relu(s.a(x)), (0, 0, 0, 0, -1, -2)))))


def test_channels_that_a_padding_takes_away_are_left_dense() -> None:
    gated = gate(Network(fewer_channels, a=conv(3), b=conv(5), h=head()))
    assert set(gated.groups) == {"b"}
    check_gated(gated)


def no_channels(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x))
    return s.h(relu(s.b(torch.cat([x, x[:, 8:]], 1))))


def test_a_slice_without_channels_is_followed() -> None:
    gated = gate(Network(no_channels, a=conv(3), b=conv(8), h=head()))
    assert set(gated.groups) == {"a", "b"}
    check_gated(gated)


def parts_the_other_way_round(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.b(torch.cat(relu(s.a(x)).chunk(2, 1)[::-1], 1))))


def test_a_slice_of_a_split_is_left_dense() -> None:
    gated = gate(Network(parts_the_other_way_round, a=conv(3), b=conv(8), h=head()))
    assert set(gated.groups) == {"b"}
    check_gated(gated)


def pooled_as_one_image(s: Any, x: Tensor) -> Tensor:
    n, c, h, w = (x := relu(s.a(x))).shape
    return s.h(s.b(functional.avg_pool2d(x.view(1, n * c, h, w), 2).view(n, c, h // 2, w // 2)))


def normalised_as_one_image(s: Any, x: Tensor) -> Tensor:
    n, c, h, w = (x := s.a(x)).shape
    return s.h(s.b(functional.instance_norm(x.reshape(1, -1, h, w)).reshape(n, c, h, w)))


def branch_as_one_image(s: Any, x: Tensor) -> Tensor:
    n, c, h, w = (x := s.b(relu(s.a(x)))).shape
    as_one = x.reshape(1, n * c, h, w)
    return s.h((as_one + s.c(x).tanh().reshape(1, n * c, h, w)).reshape(n, c, h, w))


@pytest.mark.parametrize("granularity", ["channel", "both"])
@pytest.mark.parametrize("forward", [pooled_as_one_image, normalised_as_one_image, branch_as_one_image])
def test_images_that_are_folded_into_the_channels_are_known_by_an_example_of_one(
    forward: Callable[[Any, Tensor], Tensor], granularity: Any
) -> None:
    layers = {"a": conv(3), "b": conv(8), "c": conv(8), "h": head(8)}
    gated = gate(Network(forward, **layers), granularity)
    assert not any(name.startswith("branch") for name in gated.groups)
    assert any("row for each image" in why for why in gated.not_gated.values())
    check_gated(gated)


def excited_as_written_for_years(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x))
    n, c, _, _ = x.shape
    weight = s.layer(x.mean((2, 3))).view(n, c, 1, 1).sigmoid()
    return s.h(relu(s.b(x * weight.expand_as(x))))


def one_map_for_all_channels(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x))
    return s.h(s.b(x * s.c(x).sigmoid().expand_as(x)))


def powers(s: Any, x: Tensor) -> Tensor:
    x = s.b(functional.hardtanh(s.a(x)) ** 2)
    return s.h(x.square().add(1e-6).pow(s.exponent).log1p())


def a_power_for_each_channel(s: Any, x: Tensor) -> Tensor:
    return s.h(s.b((s.a(x) ** 2 + 1) ** s.exponent))


def temperature(s: Any, x: Tensor) -> Tensor:
    return s.h(s.b(relu(s.a(x)) * s.exponent.exp().view(1, 1, 1, 1)))


@pytest.mark.parametrize(
    ("forward", "layers", "gated_layers"),
    [
        (excited_as_written_for_years, {"layer": nn.Linear(8, 8)}, {"a", "b"}),
        (one_map_for_all_channels, {"c": conv(8, 1)}, {"a", "b"}),
        (powers, {"exponent": nn.Parameter(torch.ones(1))}, {"a", "b"}),
        (a_power_for_each_channel, {"exponent": nn.Parameter(torch.ones(8, 1, 1))}, {"b"}),
        (temperature, {"exponent": nn.Parameter(torch.ones(1))}, {"a", "b"}),
    ],
)
def test_what_works_by_elements_passes_gates_on(
    forward: Callable[[Any, Tensor], Tensor], layers: dict[str, Any], gated_layers: set[str]
) -> None:
    gated = gate(Network(forward, a=conv(3), b=conv(8), h=head(), **layers))
    assert set(gated.groups) == gated_layers
    check_gated(gated)


def every_second_channel(s: Any, x: Tensor) -> Tensor:
    return s.h(s.b(relu(s.a(x))[:, ::2]))


def test_a_group_of_which_only_unread_channels_are_kept_is_cut_to_what_the_gated_network_says() -> None:
    gated = gate(Network(every_second_channel, a=conv(3), b=conv(4), h=head()))
    kept = torch.zeros(8, dtype=torch.bool)
    kept[3] = True
    verify(gated, extract(gated, {"a": kept}), IMAGES, 1e-10)
    with pytest.raises(ConfigError, match="at least one channel per group"):
        extract(gated, {"a": torch.zeros(8, dtype=torch.bool)})


def excited_from_the_end(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x))
    return s.h(relu(s.b(x * s.layer(x.mean((2, 3))).sigmoid()[..., None, None])))


def corners(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x))
    return s.h(relu(s.b(x[..., ::2, ::2] + x[..., 1::2, 1::2])))


def halves_of_tokens(s: Any, x: Tensor) -> Tensor:
    x = s.layer(tokens(relu(s.a(x))))
    return s.h(relu(s.b((x[..., :8] * x[..., 8:]).transpose(1, 2).unflatten(2, (8, 8)))))


def one_channel_of_the_last(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x)).permute(0, 2, 3, 1)
    return s.h(relu(s.b(x.permute(0, 3, 1, 2) * x[..., 3].unsqueeze(1))))


@pytest.mark.parametrize(
    ("forward", "layers", "gated_layers"),
    [
        (excited_from_the_end, {"layer": nn.Linear(8, 8)}, {"a", "b"}),
        (corners, {}, {"a", "b"}),
        (halves_of_tokens, {"layer": nn.Linear(8, 16)}, {"a", "layer", "b"}),
        (one_channel_of_the_last, {}, {"a", "b"}),
    ],
)
def test_what_is_taken_by_places_counted_from_the_end_is_followed(
    forward: Callable[[Any, Tensor], Tensor], layers: dict[str, Any], gated_layers: set[str]
) -> None:
    gated = gate(Network(forward, a=conv(3), b=conv(8), h=head(), **layers))
    assert set(gated.groups) == gated_layers
    check_gated(gated)


def every_image_is_the_first(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x)).mean((2, 3))
    return s.h(relu(s.b(x + x[..., 0:1, :])))


def test_what_is_taken_of_the_images_is_not() -> None:
    gated = gate(Network(every_image_is_the_first, a=conv(3), b=nn.Linear(8, 8), h=nn.Linear(8, 5)))
    assert "getitem" in gated.not_gated["a"]
