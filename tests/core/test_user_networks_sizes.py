"""Networks that compute with sizes, and that view and name things their own way, are cut exactly."""

from collections.abc import Callable

import pytest
import torch
from exact_cuts import check_cuts
from torch import Tensor, nn
from torch.nn import functional

from greenprune_core.extract import extract, verify

Function = Callable[["Joined", Tensor], Tensor]


class Joined(nn.Module):
    """A function of a test between layers whose channels are gated."""

    def __init__(self, between: Function) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.d, self.classify = nn.Conv2d(8, 6, 1), nn.Linear(6, 5)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.d(self.between(self, functional.relu(self.a(x)))).mean((2, 3)))


def _of_another(s: Joined, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return functional.group_norm(s.b(x), 2).reshape(n, c, h * w).reshape(x.shape)


def _shuffle(s: Joined, x: Tensor) -> Tensor:
    n, c, h, w = x.size()
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


SIZES: dict[str, Function] = {
    "a factor": lambda s, x: x * x.shape[1] ** -0.5,
    "a divisor": lambda s, x: s.b(x) / x.size(dim=-3),
    "all of the shape": lambda s, x: s.b(x).flatten(2).reshape(x.shape),
    "a part of the shape": lambda s, x: functional.group_norm(s.b(x), 2).flatten(2).reshape(x.shape[:2] + (8, 8)),  # noqa: RUF005
    "the shape of another": _of_another,
    "a shuffle": _shuffle,
    "an expansion": lambda s, x: s.b(x) + x.mean((2, 3)).view(x.size(0), x.size(1), 1, 1).expand(x.shape),
}


def _of_a_dense_one(s: Joined, x: Tensor) -> Tensor:
    dense = s.b(x).softmax(1)
    return x.flatten(2).view(dense.shape) + dense.sum(1, keepdim=True)


SHAPES: dict[str, Function] = {
    "a view": _of_a_dense_one,
    "a reshaping": lambda s, x: torch.reshape(x.flatten(2), s.b(x).softmax(1).size()),
    "an expansion": lambda s, x: x.mean((2, 3), keepdim=True).expand(s.b(x).softmax(1).shape),
    "a joined shape": lambda s, x: x.flatten(2).view(x.shape[:1] + (8,) + s.b(x).shape[2:]),  # noqa: RUF005
    "a part of one": lambda s, x: x.flatten(2).unflatten(2, s.b(x).shape[2:]),
    "a part with channels": lambda s, x: x.flatten(1).unflatten(1, s.b(x).softmax(1).shape[1:]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_views_that_are_given_a_shape_as_a_whole_are_cut(name: str) -> None:
    assert "a" in check_cuts(Joined(SHAPES[name])).groups


@pytest.mark.parametrize("name", SIZES)
def test_a_size_along_gated_channels_is_that_of_the_dense_network(name: str) -> None:
    gated = check_cuts(Joined(SIZES[name]))
    assert "a" in gated.groups


def test_a_shuffle_of_two_channels_is_followed() -> None:
    network = Joined(_shuffle)
    network.a, network.d = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 6, 1)
    assert check_cuts(network).groups == {"a": 2, "d": 6}


def test_channels_are_left_open_where_elements_are_counted() -> None:
    for count in (lambda x: x.numel(), lambda x: x.shape[1:].numel()):
        gated = check_cuts(Joined(lambda s, x, count=count: s.b(x) / count(x)))
        assert gated.not_gated["a"] == "the number of its elements is read"


def test_a_layer_whose_channels_are_all_closed_goes_though_its_size_is_read() -> None:
    gated = check_cuts(Joined(_of_another))
    closed = {name: torch.full((n,), name != "a") for name, n in gated.groups.items()}
    static = extract(gated, closed)
    verify(gated, static, torch.randn(2, 3, 8, 8, dtype=torch.float64), 1e-10)
    assert "a.weight" not in static.state_dict()


def _shuffle_by_layers(s: Joined, x: Tensor) -> Tensor:
    return s.view(s.unflatten(x).transpose(1, 2))


def _squeeze_and_excite(s: Joined, x: Tensor) -> Tensor:
    return x * torch.sigmoid(s.view(s.b(x.mean((2, 3), keepdim=True)).flatten(1)))


def with_layers(between: Function, **layers: nn.Module) -> Joined:
    """Add layers under names that are those of operations."""
    network = Joined(between)
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network


VIEWS: dict[str, Callable[[], Joined]] = {
    "unflatten as a method": lambda: Joined(lambda s, x: s.b(x).flatten(1).unflatten(1, (8, 8, 8))),
    "unflatten from the end": lambda: Joined(lambda s, x: s.b(x).flatten(2).unflatten(dim=-1, sizes=(8, -1))),
    "the layer Unflatten": lambda: with_layers(_squeeze_and_excite, view=nn.Unflatten(1, (8, 1, 1))),
    "a shuffle by layers": lambda: with_layers(
        _shuffle_by_layers, unflatten=nn.Unflatten(1, (2, 4)), view=nn.Flatten(1, 2)
    ),
    "sizes by keyword": lambda: Joined(lambda s, x: torch.reshape(x.view(size=(-1, 8, 64)), shape=(-1, 8, 8, 8))),
    "layers called as operations": lambda: with_layers(
        lambda s, x: s.cat(s.split(s.pad(s.chunk(x)))),
        chunk=nn.Conv2d(8, 8, 3),
        pad=nn.ZeroPad2d(1),
        split=nn.Conv2d(8, 8, 1),
        cat=nn.BatchNorm2d(8),
    ),
    "a flattening called split": lambda: with_layers(
        lambda s, x: s.b(s.split(x).view(-1, 8, 8, 8)), split=nn.Flatten(2)
    ),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_cut_however_they_are_written_and_layers_however_they_are_called(name: str) -> None:
    assert "a" in check_cuts(VIEWS[name]()).groups
