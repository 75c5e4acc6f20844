import random

import numpy as np
import pytest
from archive_maker import make_row, make_rows, make_run

from hpsearch.report.importance import importance_view, is_logarithmic, ped_anova
from hpsearch.search_run import open_run


def view_of(tmp_path, rows):
    make_run(tmp_path / "run", rows)
    return importance_view(open_run(tmp_path / "run"))


def test_the_parameter_that_decides_is_the_most_important():
    draw = np.random.default_rng(0)
    decisive, idle = draw.uniform(size=200), draw.uniform(size=200)
    assert ped_anova(list(decisive), decisive**2) > 5 * ped_anova(list(idle), decisive**2)


def test_a_choice_counts_like_a_number():
    draw = random.Random(0)
    choices = [draw.choice("abc") for _ in range(200)]
    costs = np.array([{"a": 0.0, "b": 1.0, "c": 2.0}[choice] + draw.random() for choice in choices])
    idle = [draw.choice("abc") for _ in range(200)]
    assert ped_anova(choices, costs) > 5 * ped_anova(idle, costs)


def test_a_parameter_that_was_never_varied_has_no_importance():
    assert ped_anova([1.0] * 30, np.arange(30.0)) == 0.0


@pytest.mark.slow
def test_the_ranking_agrees_with_optunas_evaluator():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))

    def cost(trial):
        a, b, c = (trial.suggest_float(name, 0, 1) for name in "abc")
        return 4 * (a - 0.3) ** 2 + 1.5 * (b - 0.6) ** 2 + 0.05 * c

    study.optimize(cost, n_trials=300)
    theirs = optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())
    costs = np.array([trial.value for trial in study.trials])
    ours = {name: ped_anova([trial.params[name] for trial in study.trials], costs) for name in "abc"}
    total = sum(ours.values())
    assert sorted(ours, key=ours.get) == sorted(theirs, key=theirs.get)
    assert {name: value / total for name, value in ours.items()} == pytest.approx(theirs, abs=0.15)


def test_the_view_ranks_the_draws_of_a_run(tmp_path):
    view = view_of(tmp_path, make_rows(200))
    assert view.parameters[0] == "target"  # energy follows it, accuracy too
    assert not view.is_rough
    for objective in ("accuracy", "energy"):
        shares = [item.share for item in view.importances if item.objective == objective]
        assert sum(shares) == pytest.approx(1.0)


def test_with_few_trials_nothing_is_claimed(tmp_path):
    view = view_of(tmp_path, make_rows(8))
    assert (view.importances, view.interactions) == ((), ())


def test_two_parameters_that_matter_only_together_are_found(tmp_path):
    draw = random.Random(3)
    rows = []
    for number in range(120):
        a, b, c = draw.random(), draw.random(), draw.random()
        accuracy = 0.8 + 0.1 * ((a > 0.5) == (b > 0.5)) + draw.gauss(0, 0.01)
        rows.append(make_row(number, accuracy=accuracy, params={"a": a, "b": b, "c": c}))
    view = view_of(tmp_path, rows)
    best = view.interactions[0]
    assert {best.first, best.second} == {"a", "b"}
    assert best.objective == "accuracy"
    assert best.share > 0.3
    assert sum(cell.n for cell in best.cells) == 120


def test_a_draw_that_only_some_trials_have_is_no_trouble(tmp_path):
    rows = make_rows(60)
    for number, row in enumerate(rows):
        row["params"] |= {"sometimes": 0.1 * number} if number % 2 else {}
    assert "sometimes" in view_of(tmp_path, rows).parameters


def test_a_draw_is_logarithmic_by_where_its_middle_lies():
    draw = random.Random(0)
    assert is_logarithmic([10 ** draw.uniform(-4, 0) for _ in range(50)])
    assert not is_logarithmic([draw.uniform(0.0001, 1) for _ in range(50)])
    assert not is_logarithmic([-1.0, 2.0, 3.0])
