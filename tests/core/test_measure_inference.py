"""Measuring: medians and intervals by hand, joules from recordings, and honest absence."""

import itertools
import math
import time

import pytest
import torch
from torch import nn

from greenprune_core.errors import ConfigError
from greenprune_core.measure import (
    Effort,
    MeterUnavailableError,
    NoMeter,
    ReplayMeter,
    estimate_median,
    measure_idle,
    measure_inference,
)
from greenprune_core.measure.inference import waiter

QUICK = Effort(min_seconds=0.05, min_windows=6, warm_up_s=0.01, idle_s=0.01)
IMAGES = torch.zeros(4, 3, 8, 8)


def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())


def test_the_interval_of_twenty_values_is_the_sixth_to_the_fifteenth():
    estimate = estimate_median(list(range(20, 0, -1)))
    assert (estimate.median, estimate.low, estimate.high, estimate.n) == (10.5, 6, 15, 20)
    assert estimate.relative_width == pytest.approx(9 / 10.5)


def test_six_values_are_the_fewest_and_enclose_by_their_extremes():
    estimate = estimate_median([3, 1, 2, 6, 5, 4])
    assert (estimate.low, estimate.high) == (1, 6)
    with pytest.raises(ConfigError, match="at least 6 windows"):
        estimate_median([1.0] * 5)


def test_the_interval_holds_the_median_in_nineteen_of_twenty_draws():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2000, 25, generator=generator)
    held = sum(1 for row in draws.tolist() if (e := estimate_median(row)).low <= 0 <= e.high)
    assert held / 2000 >= 0.94


def test_without_a_meter_time_is_measured_and_joules_are_none():
    measured = measure_inference(network(), IMAGES, effort=QUICK)
    assert measured.energy_j is None
    assert measured.energy_source is None
    assert measured.idle_power_w is None
    assert 0 < measured.latency_s.low <= measured.latency_s.median <= measured.latency_s.high
    assert measured.throughput_per_s == pytest.approx(4 / measured.latency_s.median)
    assert measured.latency_s.n >= 6
    assert measured.n_inferences % 4 == 0


def test_a_declared_power_turns_time_into_joules_with_its_own_label():
    measured = measure_inference(network(), IMAGES, power_w=65, effort=QUICK)
    assert measured.energy_source == "time*power"
    assert measured.energy_j.median == pytest.approx(65 * measured.latency_s.median / 4)
    assert measured.energy_j.low <= measured.energy_j.median <= measured.energy_j.high


def test_joules_are_those_above_idle_per_image():
    readings = itertools.count(0.0, 10.0)  # 10 J between any two looks: between windows as well
    measured = measure_inference(network(), IMAGES, meter=ReplayMeter(readings), idle_power_w=2.0, effort=QUICK)
    windows = measured.latency_s.n
    total_j = 10.0 * windows - 2.0 * measured.latency_s.median * measured.n_inferences / 4
    assert measured.energy_source == "replay"
    assert measured.idle_power_w == 2.0
    assert measured.energy_j.median == pytest.approx(total_j / measured.n_inferences, rel=0.05)


def test_idle_power_is_joules_over_seconds():
    assert measure_idle(ReplayMeter([5.0, 6.0]), seconds=0.1) == pytest.approx(10, rel=0.2)
    assert measure_idle(NoMeter()) is None


def test_a_gpu_is_in_use_before_its_idle_power_is_read(monkeypatch):
    done = []
    monkeypatch.setattr(torch, "zeros", lambda n, device: done.append(f"opened {device}"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: done.append("waited"))
    meter = ReplayMeter([0.0, 1.0])
    read = meter.read_j
    monkeypatch.setattr(meter, "read_j", lambda: (done.append("read"), read())[1])
    assert measure_idle(meter, seconds=0.01, device="cuda:1") > 0
    assert done == ["opened cuda:1", "waited", "read", "read"]


def test_a_load_below_idle_gives_no_joules_but_a_reason():
    readings = itertools.count(0.0, 1e-9)
    measured = measure_inference(network(), IMAGES, meter=ReplayMeter(readings), idle_power_w=50.0, effort=QUICK)
    assert measured.energy_j is None
    assert any("no more than the idle device" in warning for warning in measured.warnings)


def test_a_wide_interval_says_so():
    steps = itertools.accumulate(itertools.cycle([0.0, 1.0, 0.0, 30.0, 0.0, 5.0]))
    measured = measure_inference(network(), IMAGES, meter=ReplayMeter(steps), idle_power_w=0.0, effort=QUICK)
    assert any("interval of the energy" in warning for warning in measured.warnings)


@pytest.mark.parametrize("power_w", [0, -5, math.inf, math.nan])
def test_a_power_that_is_not_positive_is_refused(power_w):
    with pytest.raises(ConfigError, match="above 0 W"):
        measure_inference(network(), IMAGES, power_w=power_w, effort=QUICK)


def test_a_power_beside_a_meter_is_refused_and_so_is_a_short_effort():
    with pytest.raises(ConfigError, match="stands in for a missing meter"):
        measure_inference(network(), IMAGES, meter=ReplayMeter([0.0]), power_w=65, effort=QUICK)
    for min_windows in (2, 10_001):
        with pytest.raises(ConfigError, match="6 to 10000 windows"):
            Effort(min_windows=min_windows)
    for min_seconds in (0, -1, math.nan, math.inf):
        with pytest.raises(ConfigError, match="takes time"):
            Effort(min_seconds=min_seconds)


@pytest.mark.parametrize(
    "readings_j", [itertools.count(9.0, -1.0), itertools.repeat(math.nan), itertools.repeat(math.inf)]
)
def test_a_counter_that_falls_or_tells_no_number_is_an_error_and_no_figure(readings_j):
    meter = ReplayMeter(readings_j)
    with pytest.raises(MeterUnavailableError, match=r"never falls, but recorded readings of replay went from .* to"):
        measure_inference(network(), IMAGES, meter=meter, idle_power_w=0.0, effort=QUICK)
    with pytest.raises(MeterUnavailableError, match="never falls"):
        measure_idle(meter, 0.0)


def test_no_image_and_no_sensible_warm_up_are_refused():
    with pytest.raises(ConfigError, match=r"at least one image, but got images of shape \[0, 3, 8, 8\]"):
        measure_inference(network(), torch.zeros(0, 3, 8, 8), power_w=5.0, effort=QUICK)
    for name, seconds in (("warm_up_s", math.inf), ("idle_s", -1.0), ("idle_s", math.nan)):
        with pytest.raises(ConfigError, match=f"{name} lies in"):
            Effort(**{name: seconds})


def test_a_clock_that_is_set_while_measuring_changes_nothing(monkeypatch):
    """Times are differences of clocks that nobody sets; the hour of the day is none of them."""
    monkeypatch.setattr(time, "time", itertools.count(0.0, -3600.0).__next__)
    measured = measure_inference(network(), IMAGES, effort=QUICK)
    assert 0 < measured.latency_s.low <= measured.latency_s.median < 1


def test_a_meter_that_fails_in_the_middle_is_an_error_and_no_figure():
    net = network().train()
    with pytest.raises(MeterUnavailableError, match="end of its recording"):
        measure_inference(net, IMAGES, meter=ReplayMeter([0.0, 1.0, 2.0, 3.0]), idle_power_w=0.0, effort=QUICK)
    assert net.training


def test_the_network_is_measured_in_evaluation_mode_and_put_back():
    net = network().train()
    before = net[1].running_mean.clone()
    measure_inference(net, torch.randn(4, 3, 8, 8), effort=QUICK)
    assert net.training
    assert net[1].training
    assert torch.equal(net[1].running_mean, before)


@pytest.mark.parametrize(("device", "waited"), [("cpu", []), ("cuda:1", ["cuda:1"])])
def test_the_device_that_computes_is_the_one_that_is_waited_for(monkeypatch, device, waited):
    """Of several GPUs `torch.cuda.synchronize()` waits for the first."""
    seen = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: seen.append(str(device)))
    waiter(device)()
    assert seen == waited
