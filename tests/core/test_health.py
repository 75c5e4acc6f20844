"""Each way in which gates go wrong is told by its name, and healthy gates are left alone."""

import torch

from greenprune_core.health import Snapshot, at_freeze, dead_gates, examine


def snapshot(**changes):
    values = {
        "groups": {"first": slice(0, 3), "second": slice(3, 6)},
        "decision_mean_V": torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 0.0]),
        "open_average_V": torch.tensor([0.9, 0.8, 0.1, 0.9, 0.2, 0.1]),
        "wanted_V": torch.tensor([True, True, False, True, False, False]),
        "kept": 0.5,
        "target": 0.5,
    }
    return Snapshot(**(values | changes))


def test_healthy_gates_have_no_symptom():
    assert examine(snapshot()) == []
    assert dead_gates(snapshot()) == []
    assert at_freeze(snapshot().open_average_V, 0.5, 0.5) == []


def test_an_emptied_layer_is_named_with_its_best_gate():
    gates = snapshot(decision_mean_V=torch.tensor([1.0, 1.0, 0.0, 0.1, 0.2, 0.1]))
    (symptom,) = examine(gates)
    assert symptom.name == "emptied_layer"
    assert "second" in symptom.detail
    assert symptom.gates == (3,)


def test_gates_that_drift_shut_together_are_told_with_those_to_revive():
    gates = snapshot(kept=0.2, decision_mean_V=torch.tensor([1.0, 0.2, 0.0, 0.9, 0.0, 0.0]))
    (symptom,) = examine(gates)
    assert symptom.name == "all_closed"
    assert symptom.gates == (1,)


def test_gates_saturated_against_the_budget_are_dead():
    gates = snapshot(open_average_V=torch.tensor([0.9, 0.01, 0.1, 0.9, 0.99, 0.1]))
    (symptom,) = dead_gates(gates)
    assert symptom.gates == (1, 4)


def test_a_missed_target_and_an_order_made_of_noise_are_told_at_the_freeze():
    names = [symptom.name for symptom in at_freeze(torch.full((6,), 0.9), 1.0, 0.5)]
    assert names == ["all_open", "no_ranking"]
    assert [symptom.name for symptom in at_freeze(torch.linspace(0.5, 0.9, 6), 0.7, 0.5)] == ["all_open"]
