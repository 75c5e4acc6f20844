"""What one pass cannot train is refused before its first step; a loss that is no number ends the run with its name."""

import dataclasses

import pytest
import torch
from small_pass import SMALL, changed, small_network
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from greenprune_core import load_data
from greenprune_core.config import BudgetConfig, DataConfig, GateConfig, OptimiserConfig, PhaseConfig
from greenprune_core.data import ImageData
from greenprune_core.errors import ConfigError, DataError, TrainingError
from greenprune_core.one_pass import advance, finished, start, train_one_pass


class TwoInputs(torch.nn.Linear):
    def forward(self, x, y):
        return super().forward(x + y)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (small_network(9), r"\[1, at least 10\] for one image of digits, but got \[1, 9\]; give its last layer 10"),
        (small_network()[:3], r"one value per class and image, .* but got \[1, 4, 4, 4\]"),
        (small_network().requires_grad_(False), "of the 6 parameters of Sequential none requires a gradient"),
        (small_network().double(), r"trained in torch.float32, but Sequential has torch.float64; convert"),
        (small_network().half(), r"but Sequential has torch.float16"),
        (torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten()), r"with shape \(1, 1, 8, 8\).*RuntimeError"),
        (TwoInputs(8, 10), "raised TypeError: .*missing 1 required positional argument"),
        ("cifar_resnet8", "a torch.nn.Module, but got str"),
    ],
)
def test_networks_that_cannot_be_trained_on_the_images_are_refused_before_the_first_step(network, message):
    with pytest.raises(ConfigError, match=message):
        start(SMALL, network)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.LazyLinear(10), "weights have values before they are trained, but 1.weight of Sequential has none yet"),
        (nn.Linear(64, 10, device="meta"), "but 1.weight of Sequential has none yet; .* build none on the meta device"),
        (nn.Linear(64, 10), "weights are finite before they are trained, but 1.bias of Sequential holds NaN"),
    ],
)
def test_weights_without_a_number_are_refused_before_the_first_step(layer, message):
    if type(layer.bias) is nn.Parameter and not layer.bias.is_meta:
        nn.init.constant_(layer.bias, torch.nan)
    with pytest.raises(ConfigError, match=message):
        start(SMALL, nn.Sequential(nn.Flatten(), layer))


def test_more_outputs_than_classes_are_refused_with_mixup_only():
    start(SMALL, small_network(12))
    with pytest.raises(ConfigError, match=r"\[1, 10\] for one image of digits, but got \[1, 12\]"):
        start(changed(data=dataclasses.replace(SMALL.data, mixup=0.2)), small_network(12))


def test_one_training_image_is_refused():
    images, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    data = ImageData.from_tensors((images, labels), (images, labels), DataConfig(name="own"))
    with pytest.raises(ConfigError, match=r"has two images .* but own has 1 for training; use more"):
        start(SMALL, small_network(), data)


@pytest.mark.parametrize("gates", [GateConfig(floor=4), GateConfig(round_to=16)])
def test_a_target_below_the_floors_is_refused_at_the_start_with_all_that_makes_them(gates):
    with pytest.raises(ConfigError, match="raise the target, lower floor, floor_share or round_to, or gate more"):
        start(changed(gates=gates, budget=BudgetConfig(target=0.1)))


def test_a_loss_that_is_not_finite_names_the_term_and_the_step():
    config = changed(optimiser=OptimiserConfig(batch_size=16, learning_rate=1e18))
    with pytest.raises(TrainingError, match=r"the task loss is (nan|inf) at step \d+"):
        train_one_pass(config)


def test_a_loss_that_is_not_finite_ends_the_run_with_its_epoch_where_single_steps_are_not_checked(monkeypatch):
    monkeypatch.setattr("greenprune_core.steps._is_check_due", lambda state: False)  # as between checks on a GPU
    state = advance(start(SMALL), 3)
    assert state.is_cut
    with torch.no_grad():
        next(state.network.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="the task loss is nan at step"):
        advance(state, 4)


def test_images_on_another_device_than_the_training_are_refused():
    data = load_data(SMALL.data)
    with pytest.raises(ConfigError, match=r"trains, cuda:1, but these are on cpu.*device='cuda:1'"):
        start(SMALL, data=data, device="cuda:1")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "cpu, cuda or cuda:<number>, but got 'gpu'"),
        ("mps", "cpu, cuda or cuda:<number>, but got 'mps'"),
        ("meta", "cpu, cuda or cuda:<number>, but got 'meta'"),
        ("cuda:99", "torch sees, but got 'cuda:99' and it sees"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device, message):
    with pytest.raises(ConfigError, match=message):
        train_one_pass(SMALL, device=device)


def test_configurations_and_images_of_another_kind_are_refused():
    with pytest.raises(ConfigError, match=r"TrialConfig, but got dict; TrialConfig\.from_dict"):
        train_one_pass(SMALL.to_dict())
    for images in ((torch.rand(9, 1, 8, 8), torch.arange(9)), DataLoader(TensorDataset(torch.rand(9, 1)))):
        with pytest.raises(DataError, match=r"ImageData, but got (tuple|DataLoader); see ImageData\.from_tensors"):
            train_one_pass(SMALL, data=images)


def test_the_result_of_a_run_that_is_not_done_is_refused():
    with pytest.raises(ConfigError, match=r"in phase warm_up at step 0 of 100; advance it to epoch 4"):
        finished(start(SMALL))


def test_phases_between_which_no_step_lies_are_refused_before_the_first():
    phases = PhaseConfig(warm_up=0.398, freeze_at=0.4)
    with pytest.raises(ConfigError, match=r"of the 100 steps of the run none lies between 0\.398 and 0\.4; train for"):
        start(changed(phases=phases))
    start(changed(phases=phases, budget=BudgetConfig(target=1.0)))


@pytest.mark.parametrize(
    ("name", "why"), [("lbfgs", "several times in one step"), ("muon", "matrices only"), ("sparseadam", "sparse")]
)
def test_optimisers_that_do_not_fit_are_refused_before_the_first_step(name, why):
    with pytest.raises(ConfigError, match=f"got '{name}', which .*{why}.*; one of .*sgd"):
        start(changed(optimiser=OptimiserConfig(name=name)))


def test_an_unknown_optimiser_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="adamw"):
        start(changed(optimiser=OptimiserConfig(name="sgdd")))
