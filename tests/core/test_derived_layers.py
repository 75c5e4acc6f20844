"""Layers of classes derived from torch's: known by what they do, in training too."""

import pickle
from typing import Any

import pytest
import torch
from exact_cuts import IMAGES, check_cuts
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import relu
from user_networks import Network, head

from greenprune_core.cost import ExpectedCost, count_cost
from greenprune_core.errors import UnsupportedNetworkError
from greenprune_core.extract import extract


class NormAndRelu(nn.BatchNorm2d):
    """As packages of networks write it: torch's own forward, an activation after it."""

    def __init__(self, n_channels: int) -> None:
        super().__init__(n_channels, eps=1e-3)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        x = functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum or 0.0,
            self.eps,
        )
        return self.act(x)


class NormAndReluOfTorch(nn.BatchNorm2d):
    """The same with the forward that torch has."""

    def __init__(self, n_channels: int) -> None:
        super().__init__(n_channels, momentum=0.2)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class FrozenNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class Conv3x3(nn.Conv2d):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, 3, padding=1)


class Norm(nn.BatchNorm2d):
    """Only a name."""


def twice(s: Any, x: Tensor) -> Tensor:
    return s.h(relu(s.b(s.norm(s.a(x)))))


def network(norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for values in norm.parameters():
        nn.init.uniform_(values, 0.5, 1.5)
    return Network(twice, a=Conv3x3(3, 8), norm=norm, b=Conv3x3(8, 6), h=head(6)).double()


@pytest.mark.parametrize("norm", [NormAndRelu, NormAndReluOfTorch, Norm])
def test_a_derived_batch_norm_is_gated_and_normalises_by_the_batch_in_training(norm: type[nn.BatchNorm2d]) -> None:
    dense = network(norm(8))
    gated = check_cuts(dense)
    assert gated.groups == {"a": 8, "b": 6}
    gated.network.load_state_dict(dense.state_dict())
    gated.open_gates()
    torch.testing.assert_close(gated.train()(IMAGES), dense.train()(IMAGES))
    after, found = dense.state_dict(), gated.network.state_dict()
    assert after.keys() == found.keys()
    assert all(torch.equal(after[name], found[name]) for name in after)


def test_a_norm_that_calls_that_of_torch_is_cut_to_one_of_torch_that_pickles() -> None:
    dense = network(NormAndReluOfTorch(8))
    static = extract(check_cuts(dense), {"a": torch.arange(8) < 3})
    assert type(static.norm) is nn.BatchNorm2d
    assert "_check_input_dim" not in {**vars(static.norm), **vars(dense.norm)}
    assert torch.equal(pickle.loads(pickle.dumps(static))(IMAGES), static(IMAGES))


def test_layers_that_are_derived_in_name_only_are_cut_to_layers_of_torch() -> None:
    dense = network(Norm(8))
    static = extract(check_cuts(dense), {})
    assert type(static.a) is nn.Conv2d
    assert type(static.norm) is nn.BatchNorm2d
    assert type(dense.a) is Conv3x3


def test_a_batch_norm_that_keeps_its_statistics_in_training_goes_on_doing_so() -> None:
    dense = network(FrozenNorm(8))
    gated = check_cuts(dense)
    assert "batch_norm" in gated.not_gated["a"]
    gated.open_gates()
    torch.testing.assert_close(gated.train()(IMAGES), dense.train()(IMAGES))


class CheckedLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[-1] == self.in_features, "features")
        return functional.linear(x, self.weight, bias=self.bias)


class ConvAndRelu(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        x = functional.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return relu(x)


class Standardised(nn.Conv2d):
    """Its weight is computed, so none of it can be cut."""

    def forward(self, x: Tensor) -> Tensor:
        weight = functional.batch_norm(self.weight.flatten(1)[None], None, None, training=True)
        weight = weight.reshape_as(self.weight)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Dilated(nn.Conv2d):
    """Its function is given another setting than the layer has."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight, self.bias, padding=2, dilation=2)


@pytest.mark.parametrize("kind", [ConvAndRelu, Standardised, Dilated])
def test_a_derived_convolution_is_gated_where_it_is_one_of_torch(kind: type[nn.Conv2d]) -> None:
    torch.manual_seed(0)
    layers = {"a": kind(3, 8, 3, padding=1), "norm": Norm(8), "b": kind(8, 6, 3, padding=1)}
    gated = check_cuts(Network(twice, h=nn.Sequential(Conv3x3(6, 4), *head(4)[:2], CheckedLinear(4, 5)), **layers))
    expected = {"a": 8, "b": 6, "h.0": 4} if kind is ConvAndRelu else {"h.0": 4}
    assert gated.groups == expected
    assert all("conv2d" in why for name, why in gated.not_gated.items() if name in ("a", "b"))


def test_what_a_branch_asserts_keeps_nothing_of_it_when_it_is_closed() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        x = s.a(x)
        y = s.b(relu(x))
        torch._assert(y.dim() == 4, "an image")
        return s.h(x + relu(y))

    torch.manual_seed(0)
    gated = check_cuts(Network(forward, a=Conv3x3(3, 8), b=Conv3x3(8, 8), h=head()), "layer")
    (branch,) = gated.groups
    static = extract(gated, {branch: torch.tensor([False])})
    expected = ExpectedCost(gated.structure)(torch.zeros(1))
    assert count_cost(static, IMAGES[:1]).macs == int(expected)


class OwnNorm(nn.Module):
    """Batch normalisation written by hand."""

    mean: Tensor
    var: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.mean, self.var, training=self.training)


def test_a_batch_norm_that_would_not_train_as_written_is_refused() -> None:
    with pytest.raises(UnsupportedNetworkError, match=r"is a layer, but norm calls .*; use torch\.nn\.BatchNorm2d"):
        check_cuts(network(OwnNorm()))
