"""The training model, judged by torch's own count of a real backward pass."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from greenprune_core.config import NetworkConfig
from greenprune_core.cost import TrainingPart, count_cost, estimate_training_energy, load_profile, training_macs
from greenprune_core.cost.profile import Quantity
from greenprune_core.errors import ConfigError
from greenprune_core.networks import build_network

REFERENCE = load_profile("horowitz-45nm")
LINEAR = count_cost(nn.Linear(10, 3), torch.zeros(1, 10))


def test_a_training_step_makes_about_three_times_the_macs_of_a_forward_pass():
    network = build_network(NetworkConfig(name="cifar_resnet20"), n_classes=10, in_channels=3, image_size=32)
    images = torch.zeros(4, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        network.train()(images).sum().backward()
    modelled = training_macs([TrainingPart(cost=count_cost(network, images), n_trained=4)])
    # the first layer needs no gradient of its input: 1 % here
    assert modelled == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


def test_joules_of_one_step_are_worked_out_by_hand():
    energy = estimate_training_energy([TrainingPart(cost=LINEAR, n_trained=4)], REFERENCE, batch_size=4)
    assert energy.parts["macs"] == pytest.approx(3 * 4 * 30 * 4.6e-12)
    assert energy.parts["activations"] == pytest.approx(3 * 4 * 13 * 4 * 12.5e-12)
    assert energy.parts["weights"] == pytest.approx(8 * 33 * 4 * 162.5e-12)
    assert energy.source == "model:horowitz-45nm"


def test_phases_add_up_and_a_cut_network_trains_for_less():
    half = count_cost(nn.Linear(5, 3), torch.zeros(1, 5))
    dense = TrainingPart(cost=LINEAR, n_trained=40, n_passed=8)
    cut = TrainingPart(cost=half, n_trained=40, n_passed=8)
    one, other, both = (
        estimate_training_energy(parts, REFERENCE, batch_size=4).joules for parts in ([dense], [cut], [dense, cut])
    )
    assert both == pytest.approx(one + other)
    assert other < one


def test_static_power_flows_for_the_measured_seconds():
    profile = dataclasses.replace(REFERENCE, static_power_w=Quantity(value=65.0, source="declared"))
    part = TrainingPart(cost=LINEAR, n_trained=4)
    assert estimate_training_energy([part], profile, batch_size=4, seconds=2.0).parts["static"] == 130.0
    with pytest.raises(ConfigError, match="measured duration"):
        estimate_training_energy([part], profile, batch_size=4)


def test_an_empty_batch_is_refused():
    with pytest.raises(ConfigError, match="at least one image"):
        estimate_training_energy([], REFERENCE, batch_size=0)
