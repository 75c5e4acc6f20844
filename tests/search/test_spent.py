"""Sums and break-even points worked out by hand."""

import math

import pytest

from greenprune_core.errors import ConfigError
from hpsearch.energy.spent import carbon_kg, energy_spent, payback_inferences, saved_per_million_j


def row(state, joules, source="model:horowitz-45nm"):
    return {"state": state, "train_energy_j": joules, "train_energy_source": source if joules is not None else None}


def test_states_are_summed_apart_and_trials_without_a_figure_are_counted():
    rows = [
        row("complete", 3.0),
        row("complete", 4.0),
        row("stopped", 1.0),
        row("failed", None),
        row("failed", math.nan),
    ]
    spent = energy_spent(rows)
    assert spent.joules == {"complete": 7.0, "stopped": 1.0, "failed": 0.0}
    assert spent.n_unknown == {"complete": 0, "stopped": 0, "failed": 2}
    assert spent.total_j == 8.0
    assert spent.kwh == pytest.approx(8.0 / 3.6e6)
    assert spent.sources == ("model:horowitz-45nm",)


def test_nothing_known_is_none_and_not_zero():
    assert energy_spent([row("failed", None)]).total_j is None
    assert energy_spent([]).kwh is None


def test_two_sources_are_both_named():
    assert energy_spent([row("complete", 1.0), row("complete", 1.0, "nvml")]).sources == ("model:horowitz-45nm", "nvml")


def test_a_kilowatt_hour_at_400_grams_is_400_grams():
    assert carbon_kg(3.6e6, 400) == pytest.approx(0.4)
    for wrong in (0, -1, math.nan, math.inf):
        with pytest.raises(ConfigError, match="above 0 g/kWh"):
            carbon_kg(1.0, wrong)


def test_the_search_pays_back_after_what_it_spent_over_what_an_inference_saves():
    assert payback_inferences(1000.0, 3.0, 1.0) == 500
    assert payback_inferences(1001.0, 3.0, 1.0) == 501
    assert payback_inferences(1000.0, 1.0, 1.0) is None
    assert payback_inferences(1000.0, 1.0, 2.0) is None
    assert saved_per_million_j(3e-3, 1e-3) == pytest.approx(2000.0)
