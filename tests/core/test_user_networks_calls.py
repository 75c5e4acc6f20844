"""Networks whose forward has further parameters, and that call operations their own way, are gated or refused."""

import pickle
from collections.abc import Callable, Sequence

import pytest
import torch
from exact_cuts import IMAGES, check_cuts
from small_pass import SMALL
from torch import Tensor, fx, nn
from torch.nn import functional
from user_networks import conv, head

from greenprune_core.errors import UnsupportedNetworkError
from greenprune_core.extract import extract, verify
from greenprune_core.gates import attach_gates
from greenprune_core.one_pass import train_one_pass
from greenprune_core.subnetwork import check_savable


class Layers(nn.Module):
    """Layers around a function of a test."""

    def __init__(self, between: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        self.a, self.d, self.classify = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1), nn.Linear(6, 5)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.d(self.between(functional.relu(self.a(x)))).mean((2, 3)))


def brighter(x: Tensor) -> Tensor:
    """A function that tracing cannot look into, as its way depends on the data."""
    return x + 1 if x.mean() < 100 else x


fx.wrap("brighter")


class Wrapping(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(brighter(x))


class Masked(Layers):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 2.0) -> Tensor:
        if mask is not None:
            x = x * mask
        return super().forward(x) * scale


class Choosing(Layers):
    def forward(  # type: ignore[override]
        self, x: Tensor, return_features: bool = False, *more: Tensor, **named: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        y = super().forward(x)
        return (y, x) if return_features else y


@pytest.mark.parametrize("kind", [Masked, Choosing])
def test_further_parameters_of_forward_have_their_defaults(kind: type[Layers]) -> None:
    gated = check_cuts(kind())
    assert gated.groups == {"a": 8, "d": 6}


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([parts[1], parts[0]], 1)


FOLLOWED: dict[str, Callable[[Tensor], Tensor]] = {
    "one axis by name": lambda x: x.flatten(2).transpose(1, dim1=2).transpose(1, 2).view(-1, 8, 8, 8),
    "transpose by names": lambda x: torch.transpose(input=x, dim0=2, dim1=3),
    "permute by names": lambda x: torch.permute(input=x, dims=(0, 1, 3, 2)),
    "cat by names": lambda x: torch.cat(tensors=[x[:, :4], x[:, 4:]], dim=1),
    "pad by names": lambda x: functional.pad(input=x[:, :6], pad=(0, 0, 0, 0, 1, 1)),
    "split by names": lambda x: _joined(x.split(split_size=4, dim=1)),
    "joined along an axis by numpy's name": lambda x: torch.concatenate([x[:, 4:], x[:, :4]], axis=1),
    "split along one": lambda x: _joined(torch.chunk(x, 2, axis=1)),
    "averaged over two": lambda x: x * x.mean(axis=(2, 3), keepdims=True),
    "parts in another order": lambda x: _joined(x.chunk(2, 1)[::-1]),
}
LEFT: dict[str, Callable[[Tensor], Tensor]] = {
    "all parts in another order": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "some parts": lambda x: torch.cat(x.split(4, dim=1)[0:2], 1),
    "all parts": lambda x: torch.cat(x.split([3, 5], 1), 1),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_operations_are_followed_however_their_arguments_are_written(name: str) -> None:
    assert check_cuts(Layers(FOLLOWED[name])).groups == {"a": 8, "d": 6}


@pytest.mark.parametrize("name", LEFT)
def test_joins_of_a_whole_split_are_left_dense_with_the_reason(name: str) -> None:
    gated = check_cuts(Layers(LEFT[name]))
    assert gated.groups == {"d": 6}
    assert gated.not_gated["a"] == "read by cat in a layout that is not followed"


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_the_old_weight_norm_is_refused_with_the_way_to_the_new_one() -> None:
    network = Layers()
    network.a = nn.utils.weight_norm(network.a)
    way = r"use torch\.nn\.utils\.parametrizations\.weight_norm"
    with pytest.raises(UnsupportedNetworkError, match=way):
        attach_gates(network, torch.zeros(1, 3, 8, 8))
    with pytest.raises(UnsupportedNetworkError, match=way):
        train_one_pass(SMALL, network)


def test_the_old_spectral_norm_is_refused_before_a_step_of_training_makes_it_impossible_to_copy() -> None:
    network = nn.Sequential(conv(3), nn.utils.spectral_norm(conv(8)), conv(8), head())
    with pytest.raises(UnsupportedNetworkError, match=r"but 1 computes.*parametrizations\.spectral_norm"):
        attach_gates(network, IMAGES[:1].float())
    network[1] = nn.utils.parametrizations.spectral_norm(conv(8))
    gated = attach_gates(network.double(), IMAGES[:1])
    gated.train()(IMAGES).sum().backward()
    verify(gated, extract(gated, {}), IMAGES, 1e-10)


def test_a_cut_network_with_a_function_that_is_not_traced_into_comes_back_from_a_pickle() -> None:
    images = torch.randn(2, 3, 8, 8)
    gated = attach_gates(Wrapping(), images)
    static = extract(gated, {name: torch.arange(n) < n // 2 for name, n in gated.groups.items()}).eval()
    again = pickle.loads(pickle.dumps(static))
    assert torch.equal(again(images), static(images))


def test_what_could_not_be_saved_at_the_end_is_told_before_the_training() -> None:
    images = torch.randn(2, 3, 8, 8)
    check_savable(attach_gates(Layers(), images))
    with pytest.raises(UnsupportedNetworkError, match=r"functions of torch .*test_user_networks_calls\.brighter"):
        check_savable(attach_gates(Wrapping(), images))
