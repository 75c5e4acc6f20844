"""Absurd weights and schedules: each collapse is provoked, and is countered or ends the trial with its reason."""

import dataclasses

import pytest
import torch
from small_pass import SMALL

from greenprune_core.config import BudgetConfig, GateConfig, LossConfig, PhaseConfig
from greenprune_core.errors import TrainingError
from greenprune_core.one_pass import advance, start, train_one_pass

pytestmark = pytest.mark.slow

HASTY = dataclasses.replace(
    SMALL,
    budget=BudgetConfig(target=0.5),
    losses=LossConfig(),
    phases=PhaseConfig(warm_up=0.05, freeze_at=0.6, freeze_latest=0.6, ramp_share=0.2, polar_delay=0.0, polar_ramp=0.0),
)


def names(result):
    return {symptom["name"] for symptom in result.symptoms}


def test_gates_that_no_loss_presses_stay_open_and_the_repair_meets_the_target():
    losses = LossConfig(budget_weight=0.0, dual_step=0.0, polar_weight=0.0)
    result = train_one_pass(dataclasses.replace(HASTY, losses=losses))
    assert "all_open" in names(result)
    assert result.freeze_report.kept <= 0.5
    assert result.freeze_report.n_flipped > 0


def test_an_order_made_of_noise_ends_the_trial_with_its_reason():
    config = dataclasses.replace(
        HASTY,
        losses=LossConfig(budget_weight=0.0, dual_step=0.0, polar_weight=0.0),
        gates=GateConfig(family="free", noise=0.0, learning_rate_factor=1e-9),
    )
    with pytest.raises(TrainingError, match="gates must differ"):
        train_one_pass(config)


def test_gates_driven_shut_together_are_revived():
    losses = LossConfig(budget_weight=100_000.0, dual_step=10_000.0, polar_weight=0.0)
    gates = GateConfig(family="free", learning_rate_factor=50.0)
    result = train_one_pass(dataclasses.replace(HASTY, losses=losses, gates=gates))
    assert {"all_closed", "emptied_layer"} <= names(result)
    assert result.freeze_report.kept_before_repair > 0.3
    assert all(sum(mask) >= 1 for mask in result.masks.values())


def test_gates_that_keep_drifting_shut_end_the_trial_with_the_reason():
    state = advance(start(HASTY), 1)
    state.symptoms = [{"step": step, "name": "all_closed", "detail": "kept 0.1"} for step in range(11)]
    with pytest.raises(TrainingError, match="drift shut together"):
        advance(state, 2)


def test_exploding_gates_end_the_trial_with_their_own_reason():
    losses = LossConfig(budget_weight=3000.0, dual_step=300.0, polar_weight=0.0)
    gates = GateConfig(learning_rate_factor=50.0)
    with pytest.raises(TrainingError, match="open probabilities must be finite"):
        train_one_pass(dataclasses.replace(HASTY, losses=losses, gates=gates))


def test_a_learning_rate_under_which_all_explodes_is_not_blamed_on_the_budget_alone():
    optimiser = dataclasses.replace(HASTY.optimiser, learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"lower the learning rate \(of all, or"):
        train_one_pass(dataclasses.replace(HASTY, optimiser=optimiser, phases=PhaseConfig(warm_up=0.0)))


def test_gates_at_their_limit_bear_weights_under_which_they_exploded_before():
    """A logit at its limit takes gradients only that lead back; these weights ended the trial when it took all."""
    losses = LossConfig(budget_weight=3000.0, dual_step=300.0, polar_weight=0.0)
    result = train_one_pass(dataclasses.replace(HASTY, losses=losses))
    assert result.freeze_report.kept <= 0.5
    assert all(torch.isfinite(value).all() for value in result.network.state_dict().values())


def test_an_emptied_layer_gets_a_gate_back():
    state = start(HASTY)
    state = advance(state, 1)
    group = next(iter(state.gated.groups))
    place = state.gated.group_slices[group]
    _set_logits(state.gated, group, -3.0)
    images, _ = next(iter(state.data.plain_batches("train", 64)))
    state.gated.train()
    terms = _forward(state, images)
    assert float(state.gated.decision_mean[place].detach().sum()) < 0.5
    symptoms = state.pressure.care(state.gated, terms, state.progress)
    assert "emptied_layer" in {symptom.name for symptom in symptoms}
    _forward(state, images)
    assert float(state.gated.decision_mean[place].detach().sum()) > 0.9


def test_gates_saturated_on_the_wrong_side_are_brought_back():
    state = advance(start(HASTY), 2)
    images, _ = next(iter(state.data.plain_batches("train", 64)))
    for group in state.gated.groups:
        _set_logits(state.gated, group, 9.0)  # all wide open, though the budget keeps half
    state.pressure.open_average_V.fill_(0.982)
    terms = _forward(state, images)
    dead = [
        symptom for symptom in state.pressure.care(state.gated, terms, progress=0.59) if symptom.name == "dead_gates"
    ]
    assert dead
    assert len(dead[0].gates) == int((~state.pressure.promise()).sum())
    _forward(state, images)
    assert float(state.gated.open_probability.detach()[list(dead[0].gates)].max()) < 0.95


def test_a_layer_never_empties_at_the_cut():
    result = train_one_pass(dataclasses.replace(HASTY, budget=BudgetConfig(target=0.22)))
    assert all(sum(mask) >= 1 for mask in result.masks.values())
    assert result.freeze_report.kept <= 0.22


def _forward(state, images):
    state.gated.train()
    state.gated(images)
    return state.pressure.terms(state.gated, state.progress, state.step)


@torch.no_grad()
def _set_logits(gated, group, value):
    gate = gated._group_gates[group].gate
    gate.decide.weight.zero_()
    gate.decide.bias.fill_(value)
