"""Operations that people use beside convolutions: what they do to channels is followed, and costs what is expected."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from exact_cuts import IMAGES, check_gated
from gated_cases import make_masks
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import relu
from user_networks import Network, conv, gate, head, tokens

from greenprune_core.cost import ExpectedCost, count_cost
from greenprune_core.extract import extract

Function = Callable[[Any, Tensor], Tensor]


def through(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.b(s.layer(relu(s.a(x))))))


def by(function: Callable[[Tensor], Tensor]) -> Function:
    return lambda s, x: s.h(relu(s.b(function(relu(s.a(x))))))


def largest_of_points(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.b(relu(s.a(x).flatten(2)).max(2, keepdim=True)[0].unsqueeze(3))))


def smallest_of_tokens(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.b(torch.min(tokens(s.a(x)), dim=1).values[:, :, None, None])))


def statistics(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x))
    return s.h(relu(s.b(x * torch.std(x, (2, 3), keepdim=True) + x.var(axis=(2, 3), keepdim=True))))


def hidden_state(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x))
    state = torch.zeros_like(x)
    for _ in range(2):
        state = torch.tanh(s.b(x + state))
    return s.h(relu(s.layer(torch.cat([state, torch.ones_like(state)], 1))))


def rows_and_columns(s: Any, x: Tensor) -> Tensor:
    x = relu(s.a(x))
    both = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], dim=2)
    rows, columns = torch.split(relu(s.layer(both)), [8, 8], dim=2)
    return s.h(relu(s.b(x * rows.sigmoid() * columns.transpose(2, 3).sigmoid())))


def another_token(s: Any, x: Tensor) -> Tensor:
    x = tokens(relu(s.a(x)))
    x = torch.cat([s.layer(x.mean(1, keepdim=True)), x], 1)
    return s.h(relu(s.b(x[:, 1:].transpose(1, 2).unflatten(2, (8, 8)) + x[:, 0][:, :, None, None])))


FOLLOWED: dict[str, tuple[Function, nn.Module | None]] = {
    "a mirrored border": (through, nn.ReflectionPad2d(1)),
    "a repeated border": (through, nn.ReplicationPad2d((1, 0, 1, 0))),
    "a constant border": (through, nn.ConstantPad2d(1, 2.0)),
    "a border from the other side": (through, nn.CircularPad2d(1)),
    "a shuffle": (through, nn.ChannelShuffle(2)),
    "a shuffle as a function": (by(lambda x: functional.channel_shuffle(x, 4)), None),
    "a choice": (by(lambda x: torch.where(x > 0.1, x, 0.3 * x)), None),
    "a choice of a number": (by(lambda x: torch.where(x.ge(0.1), x, -1.0)), None),
    "a comparison": (by(lambda x: x * (x.sin() < x)), None),
    "points": (largest_of_points, None),
    "tokens": (smallest_of_tokens, None),
    "statistics": (statistics, None),
    "rows beside columns": (rows_and_columns, conv(8)),
    "another token": (another_token, nn.Linear(8, 8)),
    "a state": (hidden_state, conv(16)),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_channels_are_followed_through_what_leaves_them_apart(name: str) -> None:
    forward, layer = FOLLOWED[name]
    check(gate(Network(forward, a=conv(3), b=conv(8), h=head(), **({} if layer is None else {"layer": layer}))))


def gated_by_sum(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.b(functional.glu(s.a(x) + x.mean((1, 2, 3), keepdim=True), 1))))


def gated_tokens(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.b(functional.glu(tokens(s.a(x))).transpose(1, 2).unflatten(2, (8, 8)))))


def gated_over_rows(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.c(functional.glu(s.a(x), dim=2))))


@pytest.mark.parametrize("forward", [through, gated_by_sum, gated_tokens, gated_over_rows])
def test_a_gated_linear_unit_keeps_its_halves_of_one_size(forward: Function) -> None:
    layers = {"a": conv(3, 16), "layer": nn.GLU(1), "b": conv(8), "c": conv(16), "h": head()}
    gated = gate(Network(forward, **layers))
    assert gated.groups["a"] == (16 if forward is gated_over_rows else 8)
    check(gated)


def check(gated: Any) -> None:
    assert "a" in gated.groups
    check_gated(gated)
    masks = make_masks(gated, "random halves")
    for unit in ("macs", "params"):
        cost = getattr(count_cost(extract(gated, masks), IMAGES[:1]), unit)
        assert float(ExpectedCost(gated.structure, unit)(gated.flatten_masks(masks))) == pytest.approx(cost)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "function", [lambda x: x.max(1, keepdim=True)[0], lambda x: x.std() * x, lambda x: x.max() * x]
)
def test_what_is_taken_across_channels_leaves_them_dense(function: Callable[[Tensor], Tensor]) -> None:
    gated = gate(Network(lambda s, x: s.h(relu(s.b(relu(s.a(x)) + function(s.a(x))))), a=conv(3), b=conv(8), h=head()))
    assert set(gated.groups) == {"b"}
    check_gated(gated)
