import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from data_maker import make_fashion_mnist

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_the_scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def row(arm, seed, accuracy, **other):
    kept = {"macs_kept": 0.5, "params_kept": 0.4, "train_macs_share": 0.7}
    return {"arm": arm, "seed": seed, "test_accuracy": accuracy, **kept, **other}


def test_a_mean_has_its_standard_error():
    from quality_table import mean

    found = mean([0.1, 0.2, 0.3])
    assert (found.n, found.value) == (3, pytest.approx(0.2))
    assert found.error == pytest.approx(0.1 / math.sqrt(3))
    assert math.isnan(mean([0.1]).error)
    assert mean([]).n == 0


def test_differences_are_paired_by_seed_and_leave_failures_out():
    from quality_table import paired

    rows = [row("a", 0, 0.9), row("a", 1, 0.8), row("a", 2, 0.7), row("b", 0, 0.85), row("b", 1, 0.65)]
    rows.append({"arm": "b", "seed": 2, "error": "broke"})
    assert paired(rows, "a", "b").n == 2
    assert paired(rows, "a", "b").value == pytest.approx(0.1)


def test_a_goal_is_reached_only_beyond_two_standard_errors():
    from quality_table import goals

    def verdict(gains):
        rows = [row("uniform/0.5/epochs", s, 0.8) for s in range(len(gains))]
        rows += [row("ours/0.5/channel", s, 0.8 + gain) for s, gain in enumerate(gains)]
        return next(line for line in goals(rows, "cpu") if "two standard errors" in line)

    assert verdict([0.01, 0.012, 0.011, 0.009]).startswith("- reached")
    assert verdict([0.03, -0.02, 0.01, 0.0]).startswith("- MISSED")
    assert verdict([0.03]).startswith("- MISSED")


def test_what_was_not_run_counts_as_not_measured():
    from quality_table import goals, table

    assert all(line.startswith("- not measured") for line in goals([], "cpu"))
    assert len(table([], ["dense"])) == 2


def test_each_arm_comes_after_what_it_needs():
    from quality import needs_ours, plan

    arms = plan(is_full=True, with_oto=True)
    assert len(arms) == len(set(arms)) == 26
    few = plan(is_full=False, with_oto=True)
    for listed, n_needy in ((arms, 10), (few, 3)):
        needy = [arm for arm in listed if needs_ours(arm)]
        assert needy == [arm for arm in listed if arm.endswith(("/0.5", "/cost"))]
        assert len(needy) == n_needy
        assert all(f"ours/{arm.split('/')[1]}/channel" in listed for arm in needy)


def test_controls_have_the_rate_that_ours_is_held_at_unless_told_otherwise():
    from quality import SCALES
    from quality_arms import Bench

    base = SCALES["cpu"]["resnet14-4"].base
    usual, held = Bench(base, None, "cpu", 0, control_shape="cosine"), Bench(base, None, "cpu", 0)
    assert held.control_optimiser == base.optimiser != usual.control_optimiser
    assert held.control_course()(base.phases.freeze_at - 0.01) == 1 > usual.control_course()(0.3)
    assert held.control_course()(0.7) == pytest.approx(0.5)
    assert held.control_course()(1.0) == pytest.approx(usual.control_course()(1.0), abs=1e-12)


@pytest.mark.slow
def test_every_arm_of_a_small_dry_run_keeps_its_budget(tmp_path):
    from quality import SCALES, needs_ours, plan, read_rows, report, run_one

    make_fashion_mnist(tmp_path / "data", n_train=900, n_test=100)
    setting = SCALES["cpu"]["resnet14-4"]
    data = replace(setting.base.data, n_train=None)
    optimiser = replace(setting.base.optimiser, batch_size=32)
    setting = replace(setting, base=replace(setting.base, data=data, epochs=2, optimiser=optimiser))
    runs = tmp_path / "runs"
    runs.mkdir()
    arms = sorted(plan(is_full=True, with_oto=False), key=needs_ours)

    def run_all():
        for arm in arms:
            run_one(setting, 0, arm, runs, "cpu", str(tmp_path / "data"), None)

    run_all()
    rows = {row["arm"]: row for row in read_rows(runs)}
    assert set(rows) == set(arms)
    assert [row for row in rows.values() if "error" in row] == []
    for arm, found in rows.items():
        if "0.5" in arm:
            assert found["macs_kept"] <= 0.5104 + 1e-4, arm
    assert rows["ours/0.5/parameters"]["params_kept"] <= 0.5104 + 1e-4 < rows["ours/0.5/channel"]["params_kept"]
    spent = rows["ours/0.5/channel"]["train_macs_share"]
    for arm in ("uniform/0.5/cost", "slimming/0.5", "magnitude/0.5", "depgraph/0.5"):
        assert 0.95 * spent <= rows[arm]["train_macs_share"] <= spent, arm
    assert rows["found_shape/0.5"]["macs"] == rows["random_mask/0.5"]["macs"] == rows["ours/0.5/channel"]["macs"]

    written = {path.name: path.read_bytes() for path in runs.iterdir()}
    run_all()
    assert {path.name: path.read_bytes() for path in runs.iterdir()} == written

    result = report("cpu", {"resnet14-4": (setting, runs)}, "a dry run", tmp_path / "results")
    assert result.name.startswith("quality-cpu-2-epochs-20")  # beside the file of the usual length, not over it
    assert "| uniform/0.5/cost | 1 |" in result.read_text()
    assert len(json.loads(result.with_suffix(".json").read_text())["resnet14-4"]["rows"]) == len(rows)
