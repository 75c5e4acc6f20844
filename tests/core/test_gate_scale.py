"""The cheap product has the gradients of the plain one, and is not kept for the backward pass."""

import contextlib
import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from greenprune_core.config import Granularity
from greenprune_core.gates import GatedNetwork, attach_gates
from greenprune_core.gates.scale import Products, pool_channels, scale_channels
from greenprune_core.networks.cifar_resnet import cifar_resnet


@pytest.mark.parametrize(
    ("shape", "axis", "scale_shape"),
    [
        ((5, 3, 4, 4), 1, (5, 3)),
        ((5, 3, 4, 4), 1, (1, 3)),
        ((5, 7, 3), 2, (5, 3)),
        ((5, 3), 1, (5, 3)),
        ((5, 3, 4, 4), 0, (5, 1)),
        ((70, 40, 8, 8), 1, (70, 40)),
    ],
)
def test_the_gradients_are_those_of_the_definition(
    shape: tuple[int, ...], axis: int, scale_shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    scale = torch.rand(scale_shape, dtype=torch.float64, requires_grad=True)
    place = [scale_shape[0], *[scale_shape[1] if i == axis else 1 for i in range(1, len(shape))]]
    weight = torch.randn(shape, dtype=torch.float64)
    expected = x * scale.reshape(place)
    got = scale_channels(x, scale, axis)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad((got * weight).sum(), (x, scale)),
        torch.autograd.grad((expected * weight).sum(), (x, scale)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("shape", "axis"), [((5, 3, 4, 4), 1), ((5, 7, 3, 2), 3), ((70, 40, 8, 8), 1)])
@pytest.mark.parametrize("is_used", [True, False])
def test_a_tensor_that_is_pooled_and_scaled_gets_the_gradients_of_the_definition(
    shape: tuple[int, ...], axis: int, is_used: bool
) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    others = [i for i in range(1, len(shape)) if i != axis]
    weight = torch.randn(shape, dtype=torch.float64)

    def loss(means: Tensor, product: Tensor) -> Tensor:
        return (product * weight).sum() * is_used + means.square().sum() + x.sin().sum()

    means, deferred = pool_channels(x, axis)
    assert deferred is not None
    got = loss(means, scale_channels(x, means.sigmoid(), axis, deferred))
    plain = x.mean(others)
    place = [shape[i] if i in (0, axis) else 1 for i in range(len(shape))]
    expected = loss(plain, x * plain.sigmoid().reshape(place))
    for _ in range(2):  # a second time over the same graph
        (ours,) = torch.autograd.grad(got, x, retain_graph=True)
        (theirs,) = torch.autograd.grad(expected, x, retain_graph=True)
        torch.testing.assert_close(ours, theirs)


def test_what_the_gradients_of_gates_alone_leave_behind_enters_no_later_backward_pass() -> None:
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    dense = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = attach_gates(dense.double(), images, "channel", streams=False, noise=0.0).train()
    network.release_gates()
    loss, penalty = network(images).square().sum(), network.open_probability.square().sum()
    weight = network.network.get_parameter("0.weight")
    (alone,) = torch.autograd.grad(penalty, weight, retain_graph=True)
    torch.autograd.grad(loss, list(network.gate_parameters()), retain_graph=True)
    (after,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(after, alone)


def network_of(images: Tensor, granularity: Granularity, streams: bool, family: str) -> GatedNetwork:
    torch.manual_seed(0)
    dense = cifar_resnet(8, n_classes=5, in_channels=3, width=4).to(images.dtype)
    network = attach_gates(dense, images, granularity, streams=streams, family=family, noise=1.0).train()
    network.release_gates()
    return network


@pytest.mark.parametrize("family", ["head", "free", "hard_concrete"])
@pytest.mark.parametrize(
    ("granularity", "streams"), [("channel", False), ("channel", True), ("layer", False), ("both", True)]
)
def test_the_gradients_of_a_network_are_those_of_plain_operations(
    monkeypatch: pytest.MonkeyPatch, granularity: Granularity, streams: bool, family: str
) -> None:
    images, labels = torch.randn(6, 3, 16, 16, dtype=torch.float64), torch.arange(6) % 5
    network = network_of(images, granularity, streams, family)

    def all_gradients() -> list[Tensor]:
        network.zero_grad()
        torch.manual_seed(5)  # the gates' noise
        loss = functional.cross_entropy(network(images), labels)
        (loss + network.open_probability.square().sum() + network.decision_mean.sin().sum()).backward()
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    cheap = all_gradients()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # plain operations, for the compiler to fuse
    for ours, theirs in zip(cheap, all_gradients(), strict=True):
        torch.testing.assert_close(ours, theirs)


def gradients(network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    network.zero_grad()
    torch.manual_seed(5)  # the gates' noise
    functional.cross_entropy(network(images), labels).backward()
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


def test_making_products_anew_changes_no_gradient_and_saves_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    network = attach_gates(cifar_resnet(8, n_classes=5, in_channels=3, width=4), images, "both", noise=1.0).train()
    network.release_gates()
    kept: list[int] = []
    pack = Products._pack

    def counting(self: Products, tensor: Tensor) -> object:
        packed = pack(self, tensor)
        kept.append(tensor.numel() if isinstance(packed, Tensor) else 0)
        return packed

    monkeypatch.setattr(Products, "_pack", counting)
    anew = gradients(network, images, labels)
    n_inputs = sum(1 for n in kept if n == 0)
    gated_convolutions = [node for node in network.structure.coupling.consumers if "conv2" in node.name]
    assert n_inputs >= len(gated_convolutions) > 0

    @contextlib.contextmanager
    def plain(self: Products) -> Iterator[None]:
        yield

    monkeypatch.setattr(Products, "made_anew", plain)
    for one, other in zip(anew, gradients(network, images, labels), strict=True):
        torch.testing.assert_close(one, other)


def test_a_product_that_is_changed_in_place_is_not_made_anew() -> None:
    x, scale = torch.randn(4, 3, 5, 5, requires_grad=True), torch.rand(4, 3, requires_grad=True)
    products = Products()
    with products.made_anew():
        product = scale_channels(x, scale, 1)
        products.note(product, x, scale, 1)
        got = product.add_(x).square().sum()
    expected = (x * scale[:, :, None, None] + x).square().sum()
    for ours, theirs in zip(
        torch.autograd.grad(got, (x, scale)), torch.autograd.grad(expected, (x, scale)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_forward_pass_that_nothing_goes_back_through_lets_go_of_its_network() -> None:
    images = torch.randn(4, 3, 16, 16)
    network = attach_gates(cifar_resnet(8, n_classes=5, in_channels=3, width=4), images, "both", noise=1.0).train()
    network.release_gates()
    network(images)  # the gates' probabilities enter no loss: their operations keep their results for ever
    left = [weakref.ref(parameter) for parameter in network.parameters()]
    del network
    gc.collect()
    assert len(left) > 10
    assert [ref for ref in left if ref() is not None] == []
