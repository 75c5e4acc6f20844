"""Calibration: rates that were put in come out again, and networks that were not seen are predicted."""

import dataclasses
import itertools
import math

import pytest
import torch

from greenprune_core.cost import count_cost, estimate_energy, estimate_latency, load_profile
from greenprune_core.cost.profile import Quantity, Timing
from greenprune_core.errors import ConfigError
from greenprune_core.measure import NoMeter, ReplayMeter
from greenprune_core.measure.calibration import HELD_OUT_SEED, Plan, _shortfall, calibrate
from greenprune_core.measure.design import design_layers, design_networks
from greenprune_core.measure.fit import fit_proxy, fit_rates, fit_timing, score

TINY = Plan(seconds=0.1, batch_sizes=(1,), n_layers=11, n_networks=0, n_held_out=3, turn_s=0.002)


def costs_of(subjects):
    return [count_cost(subject.network, torch.zeros(1, *subject.input_shape)) for subject in subjects]


def made_up_timing(lanes):
    def told(**rates):
        return {kind: Quantity(value=value, source="a test") for kind, value in rates.items()}

    return Timing(
        batch_size=1,
        lanes=lanes,
        seconds_per_mac=told(conv=2e-11, matmul=1e-10, grouped_conv=3e-10),
        seconds_per_element_op=told(norm=1e-10, other=5e-11),
        seconds_per_activation_byte=told(conv=3e-11, other=1e-11),
        seconds_per_weight_byte=told(other=8e-11),
        seconds_per_operator=told(conv=1e-5, other=4e-6),
    )


def test_a_fit_to_noiseless_times_predicts_networks_it_has_not_seen():
    profile = dataclasses.replace(load_profile("horowitz-45nm"), timings=(made_up_timing(lanes=8),))
    designed, unseen = costs_of(design_layers(44)), costs_of(design_networks(3))
    seconds = [estimate_latency(cost, profile) for cost in designed]
    fitted = fit_timing(designed, seconds, 1, "a test")
    assert fitted.lanes == 8
    found = dataclasses.replace(profile, timings=(fitted,))
    for cost in unseen:
        assert estimate_latency(cost, found) == pytest.approx(estimate_latency(cost, profile), rel=0.02)


def test_rates_are_never_negative():
    rates, residual = fit_rates([{("a", "x"): 1.0}, {("a", "x"): 1.0, ("b", "x"): 1.0}], [2.0, 1.0])
    assert rates["b", "x"] == 0.0
    assert rates["a", "x"] > 0
    assert residual > 0


def test_a_heavier_value_is_met_better():
    """One rate for values 1 and 3 by weights w and 1: least squares of (r - 1) w and r / 3 - 1, worked out by hand."""
    counts = [{("a", "x"): 1.0}, {("a", "x"): 1.0}]
    for weight in (1.0, 10.0):
        rates, _ = fit_rates(counts, [1.0, 3.0], [weight, 1.0])
        assert rates["a", "x"] == pytest.approx((weight**2 + 1 / 3) / (weight**2 + 1 / 9))


def test_a_score_is_worked_out_by_hand():
    found = score([1.1, 2.0, 2.4], [1.0, 2.0, 3.0])
    assert found.median_error == pytest.approx(0.1)
    assert found.rank_correlation == pytest.approx(1.0)
    assert fit_proxy([10, 20], [1.0, 2.0]) == pytest.approx(0.1)


def test_designs_cover_every_kind_and_are_drawn_from_their_seed():
    layers = design_layers(22)
    kinds = {operator.kind for cost in costs_of(layers) for operator in cost.operators}
    assert kinds >= {"conv", "grouped_conv", "matmul", "norm", "elementwise", "pool"}
    assert [layer.name for layer in layers] == [layer.name for layer in design_layers(22)]
    one, again = (costs_of(design_networks(3, seed=7)) for _ in range(2))
    assert one == again


def test_without_a_meter_the_profile_holds_time_only_and_its_figures():
    done, drawn = [], torch.get_rng_state()
    profile = calibrate("here", NoMeter(), plan=TINY, on_progress=done.append)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert profile.joules_per_mac is None
    assert done == sorted(done)
    assert done[-1] == 1.0
    (figure,) = profile.fit["held_out"]
    assert figure["n_held_out"] == 3
    assert figure["median_error"] >= 0
    assert estimate_latency(costs_of(design_networks(1))[0], profile) > 0


def test_a_declared_power_makes_joules_of_modelled_time():
    profile = calibrate("here", NoMeter(), plan=TINY, power_w=65.0)
    cost = costs_of(design_networks(1))[0]
    assert estimate_energy(cost, profile).joules == pytest.approx(65 * estimate_latency(cost, profile))
    assert "time*power" in profile.static_power_w.source


@pytest.mark.slow
def test_counted_joules_are_fitted_and_named_after_their_meter():
    profile = calibrate("here", ReplayMeter(itertools.count(0.0, 0.5), source="rapl"), plan=TINY)
    assert profile.joules_per_mac is not None
    assert profile.joules_per_mac["float32"].source.startswith("rapl, fitted to 11")
    assert {figure["quantity"] for figure in profile.fit["held_out"]} == {"latency", "joules"}


@pytest.mark.slow
def test_joules_that_come_out_as_none_or_less_above_idle_do_not_cost_the_calibration():
    """Small layers vanish under the idle power: what has no joules is not fitted to and not judged by."""
    turns = itertools.cycle([0.5, 0.5, 0.5, 0.5, 0.0])  # 25 networks take their turns: the same five get none
    idle = [0.0, 0.0]
    readings = itertools.chain(idle, (reading for spent in turns for reading in (1.0, 1.0 + spent)))
    profile = calibrate("here", ReplayMeter(readings, source="rapl"), plan=dataclasses.replace(TINY, n_layers=22))
    n_judged = {figure["quantity"]: figure["n_held_out"] for figure in profile.fit["held_out"]}
    assert n_judged == {"latency": 3, "joules": 2}
    assert all(math.isfinite(figure["median_error"]) for figure in profile.fit["held_out"])
    nothing = calibrate("here", ReplayMeter(itertools.repeat(1.0), source="rapl"), plan=TINY)
    assert nothing.joules_per_mac is None
    assert {figure["quantity"] for figure in nothing.fit["held_out"]} == {"latency"}


def figure(error, rank, proxy_error=0.5, proxy_rank=0.9):
    return {
        **{"quantity": "latency", "batch_size": 1, "median_error": error, "rank_correlation": rank},
        **{"macs_only_median_error": proxy_error, "macs_only_rank_correlation": proxy_rank},
    }


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        (figure(0.15, 0.95), []),
        (figure(0.16, 0.99), ["fits badly: median error 16% (goal 15%)"]),
        (figure(0.05, 0.94), ["rank correlation 0.94 (goal 0.95)"]),
        (figure(0.05, math.nan), ["fits badly", "no better than MACs alone"]),
        (figure(0.05, 0.96, proxy_error=0.04), ["no better than MACs alone: median error 5.0% against 4.0%"]),
        (figure(0.05, 0.96, proxy_rank=0.97), ["rank correlation 0.960 against 0.970"]),
    ],
)
def test_what_misses_the_goal_or_is_no_better_than_macs_is_a_warning(figures, words):
    found = _shortfall(figures)
    assert len(found) == len(words)
    assert all(word in warning for word, warning in zip(words, found, strict=True))


@pytest.mark.slow
def test_networks_that_judge_are_none_that_the_fit_has_seen():
    plan = Plan()
    assert plan.n_held_out >= 20
    assert set(plan.batch_sizes) == {1, 256}
    designed = [*design_layers(plan.n_layers), *design_networks(plan.n_networks)]
    held_out = design_networks(plan.n_held_out, seed=HELD_OUT_SEED, prefix="held-out")
    assert {name for subject in held_out for name in ("resnet", "vgg") if name in subject.name} == {"resnet", "vgg"}
    seen = {(cost.macs, cost.activation_bytes, cost.params) for cost in costs_of(designed)}
    judged = [(cost.macs, cost.activation_bytes, cost.params) for cost in costs_of(held_out)]
    assert len(set(judged)) == len(judged)
    assert not seen & set(judged)


def test_plans_beyond_ten_minutes_or_without_a_batch_are_refused():
    with pytest.raises(ConfigError, match="up to 600 s"):
        Plan(seconds=601)
    with pytest.raises(ConfigError, match="at least 1"):
        Plan(batch_sizes=(0,))
