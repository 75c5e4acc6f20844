"""Profiles and the joules and seconds made from them."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from greenprune_core.cost import count_cost, estimate_energy, estimate_latency, load_profile, shipped_profiles
from greenprune_core.cost.profile import profile_from_dict
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
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(ConfigError, match="is a JSON file"):
        load_profile(str(tmp_path / "torn.json"))
