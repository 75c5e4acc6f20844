"""A wrong --profile is refused before anything starts; the shipped ones are chosen by name."""

import dataclasses
import json

import pytest
import torch

from greenprune_core.cost import count_cost, load_profile
from greenprune_core.errors import ConfigError
from hpsearch.cli import main
from hpsearch.doctor import profiles
from hpsearch.settings import SearchSettings
from hpsearch.start import check_profile
from hpsearch.storage import RunStorage
from hpsearch.study.opening import check_run, write_settings

MEASURED = "amd-epyc-zen5-1-thread"


@pytest.mark.parametrize("option", [("--profile", "horowits"), ("--set", "profile=horowits")])
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_an_unknown_profile_names_the_nearest_and_starts_nothing(tmp_path, capsys, option, more):
    runs = tmp_path / "runs"
    arguments = ["search", "--space", "digits", "--trials", "4", "--storage-path", str(runs), "--name", "x"]
    assert main([*arguments, *option, *more]) == 2
    assert "near names: horowitz-45nm" in capsys.readouterr().err
    assert not runs.exists()


@pytest.mark.parametrize("option", [("--profile", MEASURED), ("--set", f"profile={MEASURED}")])
def test_the_measured_profile_is_chosen_by_name_for_latency(tmp_path, capsys, option):
    arguments = ["search", "--objective", "latency", "--dry-run", "--storage-path", str(tmp_path)]
    assert main([*arguments, *option, "--third-objective", "training-energy"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "µs and 32.1 µJ an inference" in shown
    assert "(model:horowitz-45nm)" in shown  # it knows no joules: those are the reference's, under its name


@pytest.mark.parametrize("more", [[], ["--objective", "energy"], ["--objective", "latency", "--max-energy", "1mJ"]])
def test_a_profile_that_knows_time_only_is_refused_where_energies_are_compared(tmp_path, capsys, more):
    arguments = ["search", "--profile", MEASURED, "--storage-path", str(tmp_path / "runs"), "--name", "x", *more]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "knows time only" in message
    assert message.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_profiles_that_fit_what_is_asked_are_taken():
    for given in ({"objective": "macs"}, {"objective": "latency"}, {"objective": "params"}):
        check_profile(load_profile(MEASURED), SearchSettings(**given))
    check_profile(load_profile(MEASURED), SearchSettings(objective="latency", third_objective="training-energy"))


class Attends(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_network_with_an_operator_that_the_profile_has_not_timed_is_refused_before_it_trains(
    tmp_path, capsys, monkeypatch, more
):
    cost = count_cost(Attends(), torch.zeros(1, 2, 4, 8))
    monkeypatch.setattr("hpsearch.estimate._dense_cost", lambda config, data: cost)
    place = ["--storage-path", str(tmp_path / "runs"), "--name", "x"]
    assert main(["search", "--objective", "latency", "--profile", MEASURED, *place, *more]) == 2
    message = capsys.readouterr().err
    assert "has none for 'attention'; add the number to a profile of your own" in message
    assert message.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_doctor_lists_the_shipped_profiles_with_what_they_know():
    found = {finding.name: finding.detail for finding in profiles()}
    assert found["horowitz-45nm"] == "joules"
    assert found[MEASURED].startswith(
        "seconds at batch 1 and 256; for --objective latency; latency at batch 1 missed by"
    )


def test_a_run_is_not_resumed_with_other_numbers_under_the_same_name(tmp_path):
    path = tmp_path / "mine.json"
    profile = dataclasses.replace(load_profile(MEASURED), name="mine")
    path.write_text(json.dumps(profile.to_dict()))
    settings = SearchSettings(name="run", storage_path=str(tmp_path), objective="latency", profile=str(path))
    storage = RunStorage.open(settings.run)
    write_settings(storage, settings)
    again = dataclasses.replace(settings, resume=True)
    check_run(storage, again)
    path.write_text(json.dumps({**profile.to_dict(), "description": "calibrated anew"}))
    with pytest.raises(ConfigError, match=r"keeps the numbers behind model:mine, but .*mine.json has changed"):
        check_run(storage, again)


def test_a_run_is_not_resumed_with_another_profile(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**load_profile("horowitz-45nm").to_dict(), "name": "mine"}))
    settings = SearchSettings(name="run", storage_path=str(tmp_path), profile=str(path))
    storage = RunStorage.open(settings.run)
    write_settings(storage, settings)
    check_run(storage, dataclasses.replace(settings, resume=True))
    with pytest.raises(
        ConfigError, match=r"made with model:mine and got model:horowitz-45nm; give --profile .*mine\.json"
    ):
        check_run(storage, dataclasses.replace(settings, resume=True, profile=None))
