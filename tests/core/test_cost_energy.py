"""Profiles and the joules and seconds made from them."""

import copy
import json
import re
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from greenprune_core.cost import count_cost, estimate_energy, estimate_latency, load_profile, shipped_profiles
from greenprune_core.cost.operators import Kind
from greenprune_core.cost.profile import KINDS, profile_from_dict
from greenprune_core.errors import ConfigError

REFERENCE = load_profile("horowitz-45nm")


def timed_profile(static_power_w=None):
    def told(value):
        return {"value": value, "source": "a test"}

    values = REFERENCE.to_dict()
    values["name"] = "timed"
    values["static_power_w"] = static_power_w and told(static_power_w)
    values["timings"] = [
        {
            "batch_size": 4,
            "seconds_per_mac": {"conv": told(1e-9)},
            "lanes": 1,
            "seconds_per_element_op": {"other": told(1e-10)},
            "seconds_per_activation_byte": {"other": told(1e-11)},
            "seconds_per_weight_byte": {"other": told(1e-12)},
            "seconds_per_operator": {"other": told(1e-5)},
        }
    ]
    return json.loads(json.dumps(values))


def test_the_reference_profile_holds_the_numbers_of_its_source():
    assert REFERENCE.joules_per_mac["float32"].value == pytest.approx((3.7 + 0.9) * 1e-12)
    assert REFERENCE.joules_per_byte["on_chip"].value == pytest.approx(100e-12 / 8)
    assert REFERENCE.joules_per_byte["off_chip"].value == pytest.approx(1.3e-9 / 8)


@pytest.mark.parametrize("name", shipped_profiles())
def test_every_shipped_profile_loads_and_survives_a_round_trip(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile_from_dict(json.loads(json.dumps(profile.to_dict())), "here") == profile


def test_the_profile_in_the_documentation_loads():
    text = (Path(__file__).parents[2] / "docs" / "energy.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL)
    assert profile_from_dict(json.loads(block), "docs/energy.md").name == "my-accelerator"


def test_joules_of_a_linear_layer_are_worked_out_by_hand():
    energy = estimate_energy(count_cost(nn.Linear(10, 3), torch.zeros(1, 10)), REFERENCE)
    assert energy.parts["macs"] == pytest.approx(30 * 4.6e-12)
    assert energy.parts["weights"] == pytest.approx(33 * 4 * 162.5e-12)
    assert energy.parts["activations"] == pytest.approx(13 * 4 * 12.5e-12)
    assert energy.joules == pytest.approx(sum(energy.parts.values()))
    assert energy.source == "model:horowitz-45nm"


def test_a_batch_shares_one_reading_of_the_weights():
    cost = count_cost(nn.Linear(10, 3), torch.zeros(1, 10))
    alone, shared = (estimate_energy(cost, REFERENCE, batch_size=n) for n in (1, 8))
    assert shared.parts["weights"] == pytest.approx(alone.parts["weights"] / 8)
    assert shared.parts["macs"] == alone.parts["macs"]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_without_images_costs_nothing_that_could_be_told(batch_size):
    cost = count_cost(nn.Linear(4, 2), torch.zeros(1, 4))
    with pytest.raises(ConfigError, match=f"at least one image, but got batch_size={batch_size}"):
        estimate_energy(cost, REFERENCE, batch_size=batch_size)


def test_half_precision_has_its_own_price_and_an_unknown_type_is_refused():
    half = estimate_energy(count_cost(nn.Linear(10, 3).half(), torch.zeros(1, 10).half()), REFERENCE)
    assert half.parts["macs"] == pytest.approx(30 * 1.5e-12)
    double = count_cost(nn.Linear(10, 3).double(), torch.zeros(1, 10).double())
    with pytest.raises(ConfigError, match="knows float16, float32, not float64"):
        estimate_energy(double, REFERENCE)


def test_latency_and_static_energy_add_up_over_the_parts():
    profile = profile_from_dict(timed_profile(static_power_w=10.0), "here")
    cost = count_cost(nn.Conv2d(2, 3, 1), torch.zeros(1, 2, 5, 5))
    macs, weight_bytes, activation_bytes = 150, 4 * 9, 4 * 125
    seconds = 1e-5 + weight_bytes * 1e-12 + 4 * (macs * 1e-9 + activation_bytes * 1e-11)
    assert estimate_latency(cost, profile, batch_size=4) == pytest.approx(seconds)
    assert estimate_energy(cost, profile, batch_size=4).parts["static"] == pytest.approx(10 * seconds / 4)


def test_channels_are_rounded_up_to_the_lanes_of_the_device():
    values = timed_profile()
    values["timings"][0]["lanes"] = 8
    cost = count_cost(nn.Conv2d(2, 3, 1, bias=False), torch.zeros(1, 2, 5, 5))
    macs, weight_bytes, activation_bytes = 25 * 8 * 8, 4 * 6, 4 * 25 * (8 + 8)
    seconds = 1e-5 + weight_bytes * 1e-12 + 4 * (macs * 1e-9 + activation_bytes * 1e-11)
    assert estimate_latency(cost, profile_from_dict(values, "here"), batch_size=4) == pytest.approx(seconds)


def test_a_profile_without_timings_or_joules_says_so():
    cost = count_cost(nn.Linear(10, 3), torch.zeros(1, 10))
    with pytest.raises(ConfigError, match="batch sizes: none"):
        estimate_latency(cost, REFERENCE)
    values = timed_profile()
    for name in ("joules_per_mac", "joules_per_element_op", "joules_per_byte"):
        values[name] = None
    with pytest.raises(ConfigError, match="made without a meter"):
        estimate_energy(cost, profile_from_dict(values, "here"))


def changed(path, value):
    values = copy.deepcopy(timed_profile(static_power_w=5.0))
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return values


def without_any_joule():
    values = timed_profile()
    for group in ("joules_per_mac", "joules_per_element_op", "joules_per_byte"):
        for price in values[group].values():
            price["value"] = 0
    return values


def without_any_second():
    values = timed_profile()
    for rates in values["timings"][0].values():
        for rate in rates.values() if isinstance(rates, dict) else ():
            rate["value"] = 0.0
    return values


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (changed(("joules_per_mac", "float32", "value"), -1), "joules_per_mac.float32 is a number >= 0, but got -1"),
        (changed(("joules_per_mac", "float32", "value"), float("nan")), "number >= 0"),
        (changed(("joules_per_mac", "float32", "value"), "4 pJ"), "number >= 0"),
        (changed(("joules_per_byte", "on_chip", "source"), " "), "joules_per_byte.on_chip names its source"),
        (changed(("joules_per_byte",), None), "has the field joules_per_byte"),
        (changed(("joules_per_byte", "off_chip"), None), "weight_level"),
        (changed(("timings", 0, "lanes"), 0.5), "lanes is a whole number >= 1"),
        (changed(("timings", 0, "seconds_per_operator", "other"), None), "at least one entry"),
        (changed(("static_power_w", "value"), -1), "static_power_w is a number >= 0"),
        (changed(("colour",), "green"), "known fields only"),
        (changed(("version",), 99), "version is 1"),
        (changed(("timings", 0, "batch_size"), 0), "batch_size is a whole number >= 1"),
        (changed(("timings", 0, "seconds_per_weight_byte"), None), "seconds_per_weight_byte"),
        (changed(("joules_per_mac", "float32", "value"), None), "joules_per_mac.float32 has a value and a source"),
        (changed(("joules_per_mac", "float32", "value"), float("inf")), "number >= 0"),
        (changed(("joules_per_mac", "float32", "value"), 10**400), "number >= 0"),
        (changed(("joules_per_mac", "float32", "value"), True), "number >= 0"),
        (changed(("joules_per_mac", "float32"), 4.6e-12), "has a value and a source, but got 4.6e-12"),
        (changed(("static_power_w", "value"), float("-inf")), "static_power_w is a number >= 0"),
        (changed(("timings",), 5), "timings is a JSON array"),
        (changed(("timings", 0), 5), "timings[0] is a JSON object"),
        (changed(("timings", 0, "batch_size"), True), "batch_size is a whole number >= 1"),
        (changed(("timings",), 2 * timed_profile()["timings"]), "timings has one entry per batch size, but got [4, 4]"),
        (changed(("timings", 0, "seconds_per_mac", "convv"), {"value": 1, "source": "x"}), "known kinds"),
        (changed(("name",), ""), "name is one word"),
        (changed(("name",), 7), "name is a text, but got 7"),
        (changed(("fit",), "well"), "fit is a JSON object or null"),
        (changed(("weight_level",), "cupboard"), "weight_level is on_chip or off_chip"),
        (without_any_joule(), "an inference costs more than 0 J"),
        (without_any_second(), "take more than 0 s"),
        ([], "a JSON object"),
    ],
)
def test_a_bad_profile_is_refused_with_field_and_file(tmp_path, values, words):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError) as error:
        load_profile(path)
    assert words in str(error.value)
    assert "mine.json" in str(error.value)


def test_an_unknown_profile_names_the_nearest_and_a_missing_file_its_path(tmp_path):
    with pytest.raises(ConfigError, match="near names: horowitz-45nm"):
        load_profile("horowits-45")
    with pytest.raises(ConfigError, match="a readable file"):
        load_profile(str(tmp_path / "absent.json"))
    with pytest.raises(ConfigError, match="near names: amd-epyc-zen5-1-thread"):
        load_profile("amd-epyc")
    with pytest.raises(ConfigError, match="a shipped name or a JSON file"):
        load_profile("")


TEXTS = {
    "torn": b"{",
    "empty": b"",
    "no text": b"\xff\xfe\x00",
    "a field that stands twice": b'{"name": "a", "version": 1, "version": 2}',
    "deeper than Python reads": b"[" * 100_000,
    "a number of 5,000 digits": b"1" * 5_000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_file_that_is_no_json_of_unique_fields_is_refused(tmp_path, text):
    path = tmp_path / "mine.json"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match="is a JSON file"):
        load_profile(path)


def test_a_folder_is_no_profile(tmp_path):
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ConfigError, match=r"a readable file, but got .*Is a directory"):
        load_profile(tmp_path / "folder.json")


def test_a_file_may_not_stand_behind_the_name_of_a_shipped_profile(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(REFERENCE.to_dict()))
    assert load_profile(path) == REFERENCE  # a copy is the same yardstick
    path.write_text(json.dumps({**timed_profile(), "name": "horowitz-45nm"}))
    with pytest.raises(ConfigError, match="shipped with other numbers; give it a name of its own"):
        load_profile(path)


def test_kinds_of_a_timing_are_those_that_are_counted():
    assert set(KINDS) == {*get_args(Kind), "other"}


CALIBRATED = [name for name in shipped_profiles() if load_profile(name).fit]


def test_a_measured_profile_is_shipped():
    assert "amd-epyc-zen5-1-thread" in CALIBRATED


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_shipped_calibration_meets_its_goal_and_says_so_itself(name):
    profile = load_profile(name)
    figures = profile.fit["held_out"]
    assert [(figure["quantity"], figure["batch_size"]) for figure in figures] == [("latency", 1), ("latency", 256)]
    for figure in figures:
        assert figure["n_held_out"] >= 20
        assert figure["median_error"] <= 0.15 < figure["macs_only_median_error"]
        assert figure["rank_correlation"] >= 0.95 > figure["macs_only_rank_correlation"]
    assert profile.fit["warnings"] == []
    assert {"made_at", "torch", "threads", "seeds"} <= set(profile.fit)
    assert name.endswith(f"-{profile.fit['threads']}-thread{'s' if profile.fit['threads'] > 1 else ''}")
    sources = {rate.source for timing in profile.timings for rate in timing.seconds_per_operator.values()}
    assert all("AMD EPYC" in source and "2026-11-25" in source for source in sources)


def test_a_calibrated_profile_times_float32_and_refuses_other_types():
    profile = load_profile("amd-epyc-zen5-1-thread")
    network, image = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), torch.zeros(1, 3, 8, 8)
    seconds = estimate_latency(count_cost(network, image), profile)
    assert 1e-6 < seconds < 1e-3  # three launches of microseconds each
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        cost = count_cost(network.to(dtype), image.to(dtype))
        with pytest.raises(ConfigError, match=f"timed in float32, .* computes in {str(dtype).removeprefix('torch.')}"):
            estimate_latency(cost, profile)
    with pytest.raises(ConfigError, match="batch sizes: 1, 256, not 7"):
        estimate_latency(count_cost(nn.ReLU(), image), profile, batch_size=7)


def test_an_operator_that_no_calibration_has_timed_is_refused_and_not_free():
    profile = load_profile("amd-epyc-zen5-1-thread")

    class Attends(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    with pytest.raises(ConfigError, match="has none for 'attention'"):
        estimate_latency(count_cost(Attends(), torch.zeros(1, 2, 4, 8)), profile)
