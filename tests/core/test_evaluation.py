"""Outputs that two networks are compared by, and how many images are evaluated at once."""

import pytest
import torch
from torch import nn

from greenprune_core import evaluation
from greenprune_core.evaluation import evaluating, evaluation_batch, exact_outputs


class Casting(nn.Module):
    """Means in float32 whatever the rest is in: such a network cannot be reckoned in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(x).float().mean((2, 3)))


def test_outputs_in_float64_leave_the_network_as_it_was_and_go_without_where_it_casts() -> None:
    images = torch.randn(2, 3, 8, 8)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 2)).train()
    for network, dtype in ((plain, torch.float64), (Casting(), torch.float32)):
        got = evaluation._outputs_in_float64(network, images)
        assert got.dtype == dtype
        assert {p.dtype for p in network.parameters()} == {torch.float32}
        torch.testing.assert_close(got.float(), exact_outputs(network, images))
    assert plain.training


def test_outputs_are_exact_where_the_caller_casts() -> None:
    network, images = nn.Linear(64, 8), torch.randn(4, 64)
    expected = exact_outputs(network, images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(exact_outputs(network, images), expected)


def test_each_module_comes_back_in_the_mode_it_was_in() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout()).train()
    network[0].eval()
    with evaluating(network):
        assert not network[1].training
    assert [module.training for module in network] == [False, True]


@pytest.mark.parametrize(("side", "n"), [(8, 512), (64, 512), (224, 41), (4096, 1)])
def test_large_images_are_evaluated_few_at_a_time(side: int, n: int) -> None:
    assert evaluation_batch((3, side, side)) == n
