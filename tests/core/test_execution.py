"""The same pass in other precisions, layouts and compiled, and resumed in the middle of an epoch."""

import dataclasses

import pytest
import torch
from small_pass import SMALL
from torch import nn

from greenprune_core.config import BudgetConfig, DataConfig, ExecutionConfig, PhaseConfig
from greenprune_core.cost import estimate_energy, load_profile
from greenprune_core.data import ImageData
from greenprune_core.errors import ConfigError, DataError
from greenprune_core.one_pass import advance, finished, start, train_one_pass
from greenprune_core.steps import run_steps

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "execution",
    [
        ExecutionConfig(precision="bfloat16"),
        ExecutionConfig(precision="float16"),
        ExecutionConfig(channels_last=True),
        pytest.param(ExecutionConfig(compile=True), marks=pytest.mark.slow),
    ],
    ids=["bfloat16", "float16", "channels_last", "compiled"],
)
def test_a_pass_in_another_execution_learns_meets_its_budget_and_cuts_exactly(execution):
    result = train_one_pass(dataclasses.replace(SMALL, execution=execution))
    assert result.val_accuracy > 0.6
    assert result.freeze_report.kept <= 0.6
    assert result.verify_difference < 1e-4
    assert all(value.dtype in (torch.float32, torch.int64) for value in result.network.state_dict().values())


def test_each_trial_of_a_process_is_compiled_anew():
    """Versions of the gated network's code were kept from trial to trial, until there were too many to compile more."""
    config = dataclasses.replace(SMALL, execution=ExecutionConfig(compile=True), epochs=2)
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        first, second = train_one_pass(config), train_one_pass(config)
    assert first.history == second.history


def test_momenta_lie_in_memory_as_their_weights_do_after_the_cut_too():
    """Else a GPU takes one of them at a time instead of all together."""
    state = advance(start(dataclasses.replace(SMALL, execution=ExecutionConfig(channels_last=True))), 3)
    assert state.is_cut
    momenta = {p: values["momentum_buffer"] for p, values in state.optimiser.state.items()}
    assert sum(p.ndim == 4 for p in momenta) > 3
    assert all(momentum.stride() == p.stride() for p, momentum in momenta.items())


@pytest.mark.parametrize("channels_last", [False, True])
def test_joules_are_of_one_memory_format_whatever_the_training_takes(channels_last):
    """An instance norm copies what lies channels last: that is no cost of the network, nor of the cut one alone."""
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.InstanceNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 4 * 4, 10),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    execution = ExecutionConfig(channels_last=channels_last)
    budget = BudgetConfig(target=0.7, unit="joules")
    result = train_one_pass(dataclasses.replace(SMALL, execution=execution, budget=budget), network)
    profile = load_profile(budget.profile)
    cut, dense = (estimate_energy(cost, profile).joules for cost in (result.cost, result.dense_cost))
    assert cut / dense == pytest.approx(result.freeze_report.kept)
    assert "aten.clone" not in {
        operator.operator for operator in (*result.cost.operators, *result.dense_cost.operators)
    }


def test_a_run_stopped_in_the_middle_of_an_epoch_goes_on_bit_identical(tmp_path):
    whole = finished(advance(start(SMALL), SMALL.epochs))
    state = advance(start(SMALL), 1)
    torch.manual_seed(1234)  # what else the process drew must not matter
    run_steps(state, state.step + 7)
    state.save(tmp_path / "state.pt")
    fresh = start(SMALL)
    fresh.load(tmp_path / "state.pt")
    resumed = finished(advance(fresh, SMALL.epochs))
    assert resumed.history == whole.history
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_clipping_changes_the_run_and_keeps_it_finite():
    clipped = dataclasses.replace(SMALL.optimiser, clip_norm=0.5)
    result = train_one_pass(dataclasses.replace(SMALL, optimiser=clipped))
    assert result.val_accuracy > 0.5
    assert result.history != train_one_pass(SMALL).history


def test_mixup_and_label_smoothing_train():
    data = dataclasses.replace(SMALL.data, mixup=0.2)
    losses = dataclasses.replace(SMALL.losses, label_smoothing=0.1)
    assert train_one_pass(dataclasses.replace(SMALL, data=data, losses=losses)).val_accuracy > 0.5


@pytest.mark.parametrize("shape", ["one_cycle", "hold_then_cosine", "constant"])
def test_every_course_of_the_learning_rate_trains(shape):
    optimiser = dataclasses.replace(SMALL.optimiser, shape=shape, learning_rate=0.4)
    assert train_one_pass(dataclasses.replace(SMALL, optimiser=optimiser)).val_accuracy > 0.5


def test_nan_among_the_images_is_refused_before_training():
    images, labels = torch.rand(80, 1, 8, 8), torch.arange(80) % 10
    images[3, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match=r"NaN|nan|finite"):
        ImageData.from_tensors((images, labels), (images, labels), DataConfig(name="own"))


def test_labels_out_of_range_are_refused():
    images, labels = torch.rand(80, 1, 8, 8), torch.arange(80) % 10
    labels[0] = -1
    with pytest.raises(DataError, match="-1"):
        ImageData.from_tensors((images, labels), (images, labels), DataConfig(name="own"))


def test_a_custom_network_is_gated_and_left_as_it_was():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.Conv2d(8, 16, 3, stride=2), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 10),
    )  # fmt: skip
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = train_one_pass(SMALL, network=network)
    assert result.cost.macs <= 0.6 * result.dense_cost.macs
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_phases_out_of_order_are_refused_with_their_values():
    with pytest.raises(ConfigError, match=r"warm_up=0\.5, freeze_at=0\.4"):
        PhaseConfig(warm_up=0.5, freeze_at=0.4)


def test_a_step_that_does_not_fit_into_memory_says_what_to_make_smaller(monkeypatch):
    def crowded(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    state = start(SMALL)
    monkeypatch.setattr("greenprune_core.steps.task_loss", crowded)
    with pytest.raises(torch.OutOfMemoryError, match=r"phase warm_up with batch_size=16.*smaller.*Tried to allocate 2"):
        advance(state, 1)


@pytest.mark.parametrize(("where", "phase"), [("accuracy", "freeze"), ("extract", "shrink")])
def test_a_freeze_or_cut_that_does_not_fit_into_memory_says_so_too(monkeypatch, where, phase):
    def crowded(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(f"greenprune_core.one_pass.{where}", crowded)
    with pytest.raises(torch.OutOfMemoryError, match=rf"in phase {phase} with batch_size=16.*smaller.*allocate 2"):
        advance(start(SMALL), SMALL.epochs)
