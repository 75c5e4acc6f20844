"""Layers of classes derived from torch's: known by what they do, in training too."""

from typing import Any

import pytest
import torch
from exact_cuts import IMAGES, check_cuts
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import relu
from user_networks import Network, head

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


@pytest.mark.parametrize("norm", [NormAndRelu, Norm])
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
