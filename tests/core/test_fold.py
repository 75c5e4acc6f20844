"""Batch norms folded for inference: equal outputs, fewer layers, and what cannot be folded stays."""

import copy

import pytest
import torch
from gated_cases import enliven, from_torchvision, images_for, make_masks, small
from odd_networks import ODD
from torch import nn

from greenprune_core import fold_batch_norms
from greenprune_core.errors import VerificationError
from greenprune_core.extract import extract
from greenprune_core.gates import attach_gates

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def n_norms(network: nn.Module) -> int:
    return sum(isinstance(module, _NORMS) for module in network.modules())


def check_folded(network: nn.Module, images: torch.Tensor) -> nn.Module:
    before = copy.deepcopy(network.state_dict())
    expected = copy.deepcopy(network).eval()(images).detach()
    folded = fold_batch_norms(network, images, tolerance=1e-10)
    torch.testing.assert_close(folded(images), expected, rtol=0, atol=1e-10 * float(expected.abs().max()))
    assert all(bool((tensor == before[name]).all()) for name, tensor in network.state_dict().items())
    return folded


def test_a_cut_network_folds_all_its_norms() -> None:
    torch.manual_seed(0)
    images = images_for("cifar_resnet8", torch.float64)
    gated = attach_gates(enliven(small("cifar_resnet8").double(), images), images[:1])
    static = extract(gated, make_masks(gated, "random halves"))
    assert n_norms(static) == 7
    folded = check_folded(static, images)
    assert n_norms(folded) == 0
    assert static.training, "the network is left in its mode"
    assert not folded.training


@pytest.mark.parametrize("name", ["SharedBlock", "Norms", "Transposed", "Sequence1d", "OneChannel"])
def test_odd_networks_fold_what_can_be_folded(name: str) -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    network = enliven(ODD[name]().double(), images)
    kept = {"SharedBlock": 1, "Transposed": 1}  # runs three times; follows a grouped transposed convolution
    assert n_norms(check_folded(network, images)) == kept.get(name, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "regnet_y_400mf", "googlenet"])
def test_torchvision_networks_fold(name: str) -> None:
    torch.manual_seed(0)
    images = images_for(name, torch.float64)  # at 32 x 32 two values make a channel's statistics: all digits are lost
    network = enliven(from_torchvision(name).double(), images, n_steps=1).eval()
    # a densely connected network has its norms before its convolutions: half of them follow a concatenation
    assert n_norms(check_folded(network, images)) <= n_norms(network) * (0.6 if name == "densenet121" else 0)


def test_a_norm_that_cannot_be_folded_in_this_precision_is_said() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten()).eval()
    with torch.no_grad():
        network[0].bias.fill_(1e6)
        network[1].running_mean.fill_(1e6)
    images = torch.randn(2, 3, 4, 4)
    with pytest.raises(VerificationError, match="subtract large means"):
        fold_batch_norms(network, images)
    assert fold_batch_norms(network.double(), images.double()) is not None
