import json
import math

import pytest
from archive_maker import make_row, make_rows, make_run

from greenprune_core.errors import ConfigError
from hpsearch.cli import main
from hpsearch.commands.compare import describe
from hpsearch.comparison import compare
from hpsearch.report.figures import comparison_spec
from hpsearch.search_run import open_run


@pytest.fixture
def make(tmp_path):
    def open_rows(name, rows, **settings):
        make_run(tmp_path / name, rows, **settings)
        return open_run(tmp_path / name)

    return open_rows


def test_hypervolumes_have_one_corner_and_the_joint_front_says_who_dominates(make):
    good = make("good", [make_row(1, accuracy=0.9, energy_j=1e-3), make_row(2, accuracy=0.95, energy_j=1.8e-3)])
    poor = make("poor", [make_row(1, accuracy=0.5, energy_j=1e-3), make_row(2, accuracy=0.96, energy_j=1.9e-3)])
    found = compare([good, poor])
    assert found.reference == (1.0, 2e-3)
    # boxes of 1 error by 2 mJ: 0.9 x 1/2 and 0.05 x 1/10; 0.5 x 1/2 and 0.46 x 1/20
    assert [run.hypervolume for run in found.runs] == pytest.approx([0.455, 0.273])
    assert [run.n_of_joint_front for run in found.runs] == [2, 1]


def test_each_stretch_of_the_axis_has_its_leader(make):
    cheap = make("cheap", [make_row(1, accuracy=0.8, energy_j=1e-4)])
    dear = make("dear", [make_row(1, accuracy=0.9, energy_j=1e-3)])
    bands = compare([cheap, dear]).bands
    assert [band.leader for band in bands] == [0, 0, 0, 0, 1]
    assert bands[0].accuracies == (0.8, None)
    assert bands[-1].high == 1e-3


def test_a_run_compared_with_itself_is_a_tie(make):
    run = make("run", make_rows(40))
    found = compare([run, run])
    assert found.runs[0] == found.runs[1]
    assert {band.leader for band in found.bands} == {None}


def test_seeds_of_one_configuration_are_one_trial_and_joules_that_are_not_known_are_left_out(make):
    rows = [make_row(n, seed=n, config_hash="t00001", train_energy_j=5.0) for n in (1, 2)]
    lost = make_row(3, state="failed", error="x", train_energy_j=math.nan)
    line, _ = compare([make("seeds", [*rows, lost]), make("one", [make_row(1)])]).runs
    assert (line.n_trials, line.energy_spent_j) == (2, 10.0)


def test_runs_of_one_name_are_told_apart_by_their_place(make, tmp_path):
    found = compare([make("a/x", [make_row(1)]), make("b/x", [make_row(2, accuracy=0.8)]), make("y", [make_row(3)])])
    names = [str(tmp_path / "a/x"), str(tmp_path / "b/x"), "y"]
    assert [run.name for run in found.runs] == names
    picture = comparison_spec(found)
    assert [value["run"] for value in picture["data"]["values"]] == names
    assert picture["layer"][0]["encoding"]["color"]["scale"]["domain"] == names


@pytest.mark.parametrize(("objective", "source"), [("latency", "model:edge"), ("macs", None)])
def test_the_source_named_is_that_of_the_cost_that_is_compared(make, objective, source):
    rows = [make_row(1, model_latency_s=1e-3, model_latency_source="model:edge")]
    found = compare([make(name, rows, objective=objective) for name in ("one", "other")])
    title = comparison_spec(found)["layer"][0]["encoding"]["x"]["title"]
    assert title == (f"{objective} ({source})" if source else objective)
    (told,) = [line for line in describe(found).splitlines() if line.startswith("hypervolume")]
    assert told.endswith(f", {objective} by {source}" if source else "as a share of the box")


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([make_row(1, state="failed")], {}, "has no complete trial"),
        ([make_row(1, energy_source="nvml")], {}, "values of the same source"),
        ([make_row(1)], {"objective": "macs"}, "the same objectives"),
    ],
)
def test_runs_that_do_not_compare_are_refused(make, rows, settings, message):
    with pytest.raises(ConfigError, match=message):
        compare([make("one", [make_row(1)]), make("other", rows, **settings)])


def test_one_run_is_no_comparison(make):
    with pytest.raises(ConfigError, match="at least two runs"):
        compare([make("one", [make_row(1)])])


@pytest.mark.slow
def test_the_command_prints_a_table_and_draws_a_picture(make, tmp_path, capsys):
    runs = [make(name, make_rows(30, seed=seed)).storage.location for seed, name in enumerate(["first", "second"])]
    pictures = tmp_path / "out"
    assert main(["compare", *runs, "--output", str(pictures)]) == 0
    out = capsys.readouterr().out
    assert "first" in out
    assert "hypervolume up to the common corner (1, 0.002)" in out
    assert (pictures / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert main(["compare", *runs, "--output", str(pictures)]) == 2
    assert "overwrites nothing" in capsys.readouterr().err
    assert main(["compare", *runs, "--json"]) == 0
    assert [run["name"] for run in json.loads(capsys.readouterr().out)["runs"]] == ["first", "second"]


@pytest.mark.parametrize("name", ["file", "a" * 300])
def test_pictures_that_cannot_go_where_they_should_are_one_line_and_code_2(make, name, tmp_path, capsys):
    (tmp_path / "file").write_text("here")
    runs = [make(name, make_rows(5, seed=3)).storage.location for name in ("first", "second")]
    assert main(["compare", *runs, "--output", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert "files go into a folder that can be written" in error
    assert error.count("\n") == 1


def test_the_command_needs_two_runs(make, capsys):
    assert main(["compare", make("one", [make_row(1)]).storage.location]) == 2
    assert "at least two runs" in capsys.readouterr().err
