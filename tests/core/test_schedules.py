"""Schedules are functions of progress with known values at known places."""

from dataclasses import replace

import pytest

from greenprune_core.config import PhaseConfig
from greenprune_core.errors import ConfigError
from greenprune_core.schedules import (
    chain,
    constant,
    kept_fraction,
    learning_rate_factor,
    noise_scale,
    polar_strength,
    ramp,
)


@pytest.mark.parametrize(("shape", "middle"), [("linear", 0.5), ("cosine", 0.5), ("cubic", 0.875), ("constant", 1.0)])
def test_a_ramp_starts_low_ends_high_and_has_its_shape_between(shape, middle):
    schedule = ramp(0.2, 0.6, shape, low=1.0, high=3.0)
    assert schedule(0.1) == 1.0
    assert schedule(0.4) == pytest.approx(1.0 + 2.0 * middle)
    assert schedule(0.6) == 3.0
    assert schedule(1.0) == 3.0


def test_a_ramp_of_no_length_is_a_step():
    schedule = ramp(0.5, 0.5)
    assert schedule(0.49) == 0.0
    assert schedule(0.5) == 1.0


@pytest.mark.parametrize(("start", "end"), [(0.8, 0.2), (-0.1, 0.5), (0.5, 1.1)])
def test_a_ramp_out_of_order_is_refused_with_its_values(start, end):
    with pytest.raises(ConfigError, match=f"start={start}, end={end}"):
        ramp(start, end)


def test_an_unknown_shape_is_refused():
    with pytest.raises(ConfigError, match="'wavy'"):
        ramp(0.0, 1.0, "wavy")


def test_a_chain_shows_each_part_its_own_progress():
    schedule = chain(ramp(0.0, 1.0), constant(7.0), at=0.4)
    assert schedule(0.2) == pytest.approx(0.5)
    assert schedule(0.4) == 7.0


def test_the_budget_falls_from_one_to_the_target_inside_the_select_phase():
    phases = PhaseConfig(warm_up=0.1, freeze_at=0.5, freeze_latest=0.6, ramp_share=0.5)
    for shape, halfway in (("linear", 0.7), ("cubic", 0.475)):
        schedule = kept_fraction(replace(phases, ramp_shape=shape), target=0.4)
        assert schedule(0.1) == 1.0
        assert schedule(0.2) == pytest.approx(halfway)
        assert schedule(0.3) == pytest.approx(0.4)
        assert schedule(0.9) == 0.4


def test_the_polariser_starts_after_its_delay():
    schedule = polar_strength(PhaseConfig(warm_up=0.0, freeze_at=0.5, polar_delay=0.4, polar_ramp=0.2))
    assert schedule(0.19) == 0.0
    assert schedule(0.25) == pytest.approx(0.5)
    assert schedule(0.3) == pytest.approx(1.0)


def test_annealed_noise_is_gone_at_the_freeze():
    phases = PhaseConfig(warm_up=0.1, freeze_at=0.5, freeze_latest=0.5)
    assert noise_scale(phases, 0.6, anneal=True)(0.3) == pytest.approx(0.3)
    assert noise_scale(phases, 0.6, anneal=True)(0.5) == 0.0
    assert noise_scale(phases, 0.6, anneal=False)(0.5) == 0.6


@pytest.mark.parametrize("shape", ["cosine", "one_cycle", "hold_then_cosine"])
def test_every_falling_learning_rate_ends_at_zero(shape):
    assert learning_rate_factor(shape, 0.05, hold_until=0.4)(1.0) == pytest.approx(0.0, abs=1e-12)


def test_the_learning_rate_rises_holds_and_falls():
    factor = learning_rate_factor("hold_then_cosine", 0.1, hold_until=0.4)
    assert factor(0.05) == pytest.approx(0.5)
    assert factor(0.4) == 1.0
    assert factor(0.7) == pytest.approx(0.5)
    assert learning_rate_factor("constant", 0.0, hold_until=0.4)(0.0) == 1.0


def test_an_unknown_learning_rate_shape_is_refused():
    with pytest.raises(ConfigError, match="'square'"):
        learning_rate_factor("square", 0.0, hold_until=0.5)
