"""The one pass from end to end on a small real problem: phases, budget, cut, resume, failure."""

import dataclasses
from contextlib import contextmanager

import pytest
import torch
from small_pass import SMALL, changed, small_network
from torch import nn

from greenprune_core.config import BudgetConfig, DataConfig, GateConfig, LossConfig, OptimiserConfig, PhaseConfig
from greenprune_core.cost import count_cost
from greenprune_core.data import ImageData
from greenprune_core.errors import ConfigError
from greenprune_core.losses import task_loss
from greenprune_core.one_pass import (
    _PHASES,
    advance,
    finished,
    freeze,
    select,
    shrink,
    start,
    train_one_pass,
    warm_up,
)
from greenprune_core.optimisation import _BY_NAME
from greenprune_core.state import example_images


@pytest.fixture(scope="module")
def small_result():
    return train_one_pass(SMALL)


def test_the_result_is_a_smaller_static_network_within_its_budget(small_result):
    assert small_result.cost.macs <= 0.6 * small_result.dense_cost.macs
    assert small_result.cost.params < small_result.dense_cost.params
    modules = {type(module).__module__.split(".")[0] for module in small_result.network.modules()}
    assert "greenprune_core" not in modules
    assert not any("gate" in name for name, _ in small_result.network.named_parameters())
    assert small_result.verify_difference < 1e-5
    assert small_result.val_accuracy > 0.5


def test_the_run_costs_less_than_dense_training(small_result):
    assert 0.6 < small_result.train_macs / small_result.dense_train_macs < 0.95
    assert list(small_result.spent) == ["warm_up", "select", "freeze", "shrink", "finish"]
    n_steps = sum(spent.n_steps for spent in small_result.spent.values())
    assert n_steps == 4 * 25


def test_the_freeze_reports_what_it_found(small_result):
    report = small_result.freeze_report
    assert report.kept <= 0.6 < report.kept + 0.1
    assert sum(report.open_histogram) == report.n_gates == sum(len(mask) for mask in small_result.masks.values())
    assert 0 <= report.disagreement_mean <= report.disagreement_max <= 0.5
    assert report.progress >= 0.5


def test_each_epoch_leaves_a_line(small_result):
    assert [line["epoch"] for line in small_result.history] == [1, 2, 3, 4]
    assert small_result.history[-1]["phase"] == "finish"
    assert small_result.history[-1]["val_accuracy"] == small_result.val_accuracy


def test_the_line_of_an_epoch_after_the_cut_tells_what_was_kept(small_result):
    last = small_result.history[-1]
    assert last["kept"] == pytest.approx(small_result.cost.macs / small_result.dense_cost.macs)
    assert last["target"] == pytest.approx(0.6)


def test_equal_seeds_give_equal_numbers_and_leave_the_callers_random_state_alone(small_result):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = train_one_pass(SMALL)
    assert torch.equal(before, torch.get_rng_state())
    for name, value in small_result.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name
    assert again.history == small_result.history


def test_another_seed_gives_other_numbers(small_result):
    other = train_one_pass(changed(seed=1))
    assert other.history != small_result.history


@pytest.mark.slow
@pytest.mark.parametrize("epochs_before", [1, 2, 3])
def test_a_resumed_run_ends_bit_identical_before_and_after_the_cut(small_result, tmp_path, epochs_before):
    state = advance(start(SMALL), epochs_before)
    state.save(tmp_path / "checkpoint.pt")
    fresh = start(SMALL)
    fresh.load(tmp_path / "checkpoint.pt")
    assert (fresh.phase, fresh.step) == (state.phase, state.step)
    result = finished(advance(fresh, SMALL.epochs))
    for name, value in small_result.network.state_dict().items():
        assert torch.equal(value, result.network.state_dict()[name]), name
    assert result.history == small_result.history
    assert result.train_macs == small_result.train_macs


def step_by_step(state, n_calls=None):
    """Call phase after phase, each for one step at most, and return the phases met."""
    met = []
    while state.phase != "done" and n_calls != len(met):
        met.append(state.phase)
        _PHASES[state.phase](state, min(state.step + 1, state.n_steps))
    return met


@pytest.mark.slow
def test_a_run_saved_at_any_step_around_the_cut_ends_bit_identical(tmp_path):
    """Also while the freeze waits, between freeze and cut, and in the epoch in which the cut is."""
    config = changed(phases=dataclasses.replace(SMALL.phases, disagreement_limit=0.0), gates=GateConfig(), epochs=3)
    state = start(config)
    met = step_by_step(state)
    whole = finished(state)
    assert whole.freeze_report.n_waits > 1
    cut = met.index("shrink")
    places = [3, met.index("select"), met.index("freeze"), *range(cut - 1, cut + 3)]
    assert {met[place] for place in places} == set(_PHASES)
    for place in places:
        state = start(config)
        step_by_step(state, place)
        state.save(tmp_path / "checkpoint.pt")
        fresh = start(config)
        fresh.load(tmp_path / "checkpoint.pt")
        result = finished(advance(fresh, config.epochs))
        assert result.history == whole.history, (place, met[place])
        assert result.freeze_report == whole.freeze_report
        assert result.train_macs == whole.train_macs
        for name, value in whole.network.state_dict().items():
            assert torch.equal(value, result.network.state_dict()[name]), name


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    start(SMALL).save(tmp_path / "checkpoint.pt")
    with pytest.raises(ConfigError, match="same configuration"):
        start(changed(seed=5)).load(tmp_path / "checkpoint.pt")


def test_a_checkpoint_that_cannot_be_written_says_where_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(ConfigError, match=r"can be written, but .*/absent cannot: No such file"):
        start(SMALL).save(tmp_path / "absent" / "checkpoint.pt")
    (tmp_path / "taken").mkdir()
    with pytest.raises(ConfigError, match="cannot: Is a directory"):
        start(SMALL).save(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path, part = tmp_path / "checkpoint.pt", tmp_path / "part.pt"
    start(SMALL).save(path)
    whole, held = path.read_bytes(), torch.load(path)
    damaged = [b"not a checkpoint", b"", *(whole[: len(whole) * k // 5] for k in range(1, 5))]
    for content in damaged:
        part.write_bytes(content)
        with pytest.raises(
            ConfigError, match=r"checkpoint is a file written by this project, but got .*\(\w+\); start anew$"
        ):
            start(SMALL).load(part)
    for broken in ({**held, "json": held["json"][:-9]}, {name: held[name] for name in held if name != "optimiser"}):
        torch.save(broken, part)
        with pytest.raises(
            ConfigError, match=r"checkpoint is a file written by this project, but got .*\(\w+\); start anew$"
        ):
            start(SMALL).load(part)
    with pytest.raises(FileNotFoundError):
        start(SMALL).load(tmp_path / "absent.pt")


@pytest.mark.parametrize("epochs", [0, 3])
def test_a_checkpoint_of_another_network_is_refused_before_and_after_the_cut(tmp_path, epochs):
    state = advance(start(SMALL, small_network()), epochs) if epochs else start(SMALL, small_network())
    assert state.is_cut == bool(epochs)
    state.save(tmp_path / "checkpoint.pt")
    for other in (small_network(kernel=2), None):
        with pytest.raises(ConfigError, match=r"must be of the same network, but its .*; pass the network"):
            start(SMALL, other).load(tmp_path / "checkpoint.pt")


def test_a_checkpoint_of_other_images_is_refused_also_where_the_configuration_does_not_tell(tmp_path):
    def images(n, **augmentation):
        pixels, labels = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 10
        return ImageData.from_tensors((pixels, labels), (pixels, labels), DataConfig(name="mine", **augmentation))

    start(SMALL, data=images(200)).save(tmp_path / "checkpoint.pt")
    start(SMALL, data=images(200)).load(tmp_path / "checkpoint.pt")
    for other, fact in ((images(300), "n_train is 180 and here it is 270"), (images(200, flip=True), "flip is False")):
        with pytest.raises(ConfigError, match=f"of the same images, but its {fact}.*; pass the images"):
            start(SMALL, data=other).load(tmp_path / "checkpoint.pt")


def test_a_target_of_one_trains_the_dense_network():
    result = train_one_pass(changed(budget=BudgetConfig(target=1.0), epochs=2))
    assert result.cost.macs == result.dense_cost.macs
    assert result.freeze_report is None
    assert result.train_macs == result.dense_train_macs


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["layer", "both"])
def test_branches_can_be_closed(granularity):
    config = changed(gates=GateConfig(granularity=granularity), budget=BudgetConfig(target=0.5), epochs=3)
    result = train_one_pass(config)
    assert result.cost.macs <= 0.5 * result.dense_cost.macs


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["params", "joules", "macs_and_params"])
def test_the_budget_can_be_in_other_units(unit):
    result = train_one_pass(changed(budget=BudgetConfig(target=0.6, unit=unit), epochs=2))
    assert result.freeze_report.kept <= 0.6
    if "params" in unit:
        assert result.cost.params <= 0.6 * result.dense_cost.params
    if "macs" in unit:
        assert result.cost.macs <= 0.6 * result.dense_cost.macs


@pytest.mark.parametrize("form", ["half", "variance", "none"])
def test_every_polariser_form_meets_the_budget(form):
    result = train_one_pass(changed(losses=LossConfig(polar_form=form), epochs=2))
    assert result.freeze_report.kept <= 0.6


@pytest.mark.slow
def test_the_freeze_waits_for_gates_that_do_not_agree_and_says_so():
    phases = dataclasses.replace(SMALL.phases, disagreement_limit=0.0)
    report = train_one_pass(changed(phases=phases, gates=GateConfig())).freeze_report
    assert report.n_waits >= 1
    assert 0.5 < report.progress <= 0.7


def test_the_share_of_a_floor_is_not_rounded_up_by_its_last_digit():
    """0.5 * 0.28 * 50 is 7.000000000000001 in floats, and 7 by the formula."""
    network = nn.Sequential(nn.Conv2d(1, 50, 1), nn.ReLU(), nn.Flatten(), nn.Linear(50 * 64, 10))
    state = start(changed(budget=BudgetConfig(target=0.28), gates=GateConfig(floor_share=0.5)), network)
    state.pressure.open_average_V[:] = 0.1
    assert int(state.pressure.settle(torch.zeros(50)).kept_V.sum()) == 14
    assert int(state.pressure._ranking.majority(torch.zeros(50)).sum()) == 7


@contextmanager
def default_type(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


_SURROUNDINGS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_type(torch.float64),
    "meta": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("mode", _SURROUNDINGS)
def test_what_the_caller_has_set_in_torch_for_itself_changes_no_training(small_result, mode):
    def settings():
        return (
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.is_autocast_enabled("cpu"),
            torch.empty(1).device,
        )

    with _SURROUNDINGS[mode]():
        before = settings()
        again = train_one_pass(SMALL)
        assert settings() == before
    assert again.history == small_result.history


@pytest.mark.parametrize("mode", _SURROUNDINGS)
def test_nor_does_it_where_a_training_is_walked_through_and_resumed(small_result, mode, tmp_path):
    with _SURROUNDINGS[mode]():
        advance(start(SMALL), 3).save(tmp_path / "checkpoint.pt")
        fresh = start(SMALL)
        fresh.load(tmp_path / "checkpoint.pt")
        assert fresh.is_cut
        assert finished(advance(fresh, SMALL.epochs)).history == small_result.history


def test_the_loss_on_a_fixed_batch_is_the_same_before_and_after_the_cut(monkeypatch):
    monkeypatch.setattr("greenprune_core.one_pass.reestimate_batch_statistics", lambda *arguments: 0)
    state = start(SMALL)
    while state.phase != "shrink":
        state = {"warm_up": warm_up, "select": select, "freeze": freeze}[state.phase](state, state.n_steps)
    images, labels = next(iter(state.data.plain_batches("validation", 40)))
    dense_size = sum(parameter.numel() for parameter in state.network.parameters())
    state.network.eval()
    before = task_loss(state.run(images), labels)
    state = shrink(state, state.n_steps)
    state.network.eval()
    assert sum(parameter.numel() for parameter in state.network.parameters()) < dense_size
    assert task_loss(state.run(images), labels).item() == pytest.approx(before.item(), rel=1e-5)


def test_the_cut_keeps_the_momenta_of_what_it_keeps():
    config = changed(phases=PhaseConfig(warm_up=0.1, freeze_at=0.5, freeze_latest=0.5))
    state = advance(start(config), 2)
    assert state.is_cut
    momenta = [state.optimiser.state[p].get("momentum_buffer") for p in state.network.parameters()]
    assert all(momentum is not None and momentum.abs().sum() > 0 for momentum in momenta)


def test_the_cost_on_the_result_is_that_of_its_network(small_result):
    counted = count_cost(small_result.network, example_images(start(SMALL).data, "cpu"))
    assert counted.macs == small_result.cost.macs


_OPTIMISERS = ["adafactor", "adagrad", "adadelta", "adam", "adamax", "asgd", "nadam", "radam", "rprop"]


@pytest.mark.parametrize("name", ["adamw", "rmsprop", *(pytest.param(n, marks=pytest.mark.slow) for n in _OPTIMISERS)])
def test_other_optimisers_go_through_the_cut(name):
    config = changed(optimiser=OptimiserConfig(name=name, learning_rate=1e-3, batch_size=16), epochs=2)
    assert train_one_pass(config).cost.macs > 0


def test_weights_decay_and_biases_norms_of_any_shape_and_gates_do_not():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LayerNorm([4, 6, 6]), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
                            nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))  # fmt: skip
    state = start(changed(budget=BudgetConfig(target=0.9)), network)
    decays = {id(p): group["weight_decay"] for group in state.optimiser.param_groups for p in group["params"]}
    decaying = [name for name, p in state.gated.named_parameters() if decays[id(p)]]
    assert decaying == ["network.0.weight", "network.2.weight", "network.6.weight"]


def test_all_of_torchs_optimisers_are_tried_or_refused():
    assert sorted(_BY_NAME) == sorted([*_OPTIMISERS, "adamw", "rmsprop", "sgd", "lbfgs", "muon", "sparseadam"])


def test_the_callers_network_stays_on_its_device_and_is_not_touched():
    class Noting(torch.nn.Sequential):
        moved = []

        def _apply(self, *arguments):
            Noting.moved.append(id(self))
            return super()._apply(*arguments)

    network = Noting(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3), torch.nn.Flatten())
    network.append(torch.nn.Linear(4 * 16, 10))
    start(SMALL, network=network)
    assert Noting.moved
    assert id(network) not in Noting.moved


def test_no_last_batch_of_one_image_reaches_a_batch_norm_at_the_cut(monkeypatch):
    """33 images for the statistics in evaluation batches of 32; a norm behind the pooling needs two values."""
    monkeypatch.setattr("greenprune_core.one_pass.evaluation_batch", lambda shape: 32)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(37, 3, 6, 6, generator=generator), torch.arange(37) % 3
    data = ImageData.from_tensors((images, labels), (images, labels), DataConfig(name="mine"))
    assert data.n_train == 33
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip
    config = changed(optimiser=OptimiserConfig(batch_size=8, learning_rate=0.8), epochs=10)
    assert train_one_pass(config, network, data).freeze_report.n_images == 33
