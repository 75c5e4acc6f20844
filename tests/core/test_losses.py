"""Each loss against values worked out by hand, and the bound that the polariser promises."""

import pytest
import torch

from greenprune_core.losses import (
    ascend_multiplier,
    budget_loss,
    disagreement_bounds,
    polar_half_loss,
    polar_variance_loss,
    polar_watershed_loss,
    task_loss,
)


def test_the_task_loss_of_even_logits_is_the_logarithm_of_the_classes():
    assert task_loss(torch.zeros(3, 10), torch.tensor([0, 5, 9])).item() == pytest.approx(2.302585, abs=1e-5)


def test_label_smoothing_punishes_certainty():
    logits, labels = torch.tensor([[20.0, 0.0]]), torch.tensor([0])
    assert task_loss(logits, labels, 0.1) > task_loss(logits, labels) + 0.9


def test_the_budget_is_one_sided_and_has_no_force_at_the_target():
    kept = torch.tensor(0.6, requires_grad=True)
    loss = budget_loss(kept, 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(0.01)
    assert kept.grad.item() == pytest.approx(0.2)
    assert budget_loss(torch.tensor(0.4), 0.5).item() == 0.0
    at_target = torch.tensor(0.5, requires_grad=True)
    budget_loss(at_target, 0.5).backward()
    assert at_target.grad.item() == 0.0


def test_the_multiplier_rises_over_budget_falls_under_it_and_stays_positive():
    start = torch.tensor(0.2)
    assert ascend_multiplier(start, torch.tensor(0.8), 0.5, 0.1).item() == pytest.approx(0.23)
    assert ascend_multiplier(start, torch.tensor(0.3), 0.5, 0.1).item() == pytest.approx(0.18)
    assert ascend_multiplier(torch.tensor(0.01), torch.tensor(0.0), 0.5, 0.1).item() == 0.0


def test_the_half_polariser_is_zero_for_agreement_and_one_for_a_tie():
    assert polar_half_loss(torch.tensor([0.0, 1.0])).item() == 0.0
    assert polar_half_loss(torch.tensor([0.5, 0.5])).item() == 1.0
    assert polar_half_loss(torch.tensor([0.9, 0.2])).item() == pytest.approx((0.36 + 0.64) / 2)


def test_the_variance_form_sees_disagreement_and_not_the_side():
    assert polar_variance_loss(torch.tensor([[0.5], [0.5]])).item() == 0.0
    assert polar_variance_loss(torch.tensor([[0.0], [1.0]])).item() == 1.0


def test_the_watershed_pulls_each_gate_to_its_side():
    probability = torch.tensor([0.6, 0.6], requires_grad=True)
    polar_watershed_loss(probability, torch.tensor([True, False])).backward()
    assert probability.grad[0] < 0 < probability.grad[1]
    assert polar_watershed_loss(torch.tensor([1.0, 0.0]), torch.tensor([True, False])).item() == 0.0


def test_the_share_of_differing_images_lies_within_the_bounds():
    generator = torch.Generator().manual_seed(0)
    gates = (torch.rand(200, 64, generator=generator) < torch.rand(64, generator=generator)).float()
    mean = gates.mean(0)
    minority = torch.minimum(mean, 1 - mean)
    low, high = disagreement_bounds(mean)
    assert bool((low <= minority + 1e-6).all())
    assert bool((minority <= high + 1e-6).all())
    assert minority.max() > 0.1
