import itertools
import shlex
from dataclasses import replace

import pytest
from archive_maker import make_row, make_run

from hpsearch.report.cards import reproduce_command
from hpsearch.search_run import open_run
from search_spaces import load_space, pin

optuna = pytest.importorskip("optuna")


@pytest.mark.parametrize("name", ["digits", "fashion_mnist", "cifar10"])
def test_the_command_on_a_card_gives_the_same_configuration_again(name, tmp_path):
    pins = {"epochs": "2"}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=5))
    trial = study.ask()
    drawn = pin(load_space(name), pins).suggest(trial)
    config = replace(drawn, seed=drawn.seed + 7)  # as the search adds its own seed
    row = make_row(1, params=trial.params, config=config.to_dict())
    # the settings are those of the last session, with another seed, length and profile than the trial had
    make_run(tmp_path / "run", [row], space=name, seed=3, pins=["epochs=4"], profile="its.json")
    run = open_run(tmp_path / "run")
    words = shlex.split(reproduce_command(run, run.rows[0]))
    options = list(itertools.pairwise(words))
    pinned = dict(text.split("=", 1) for option, text in options if option == "--set")
    again = pin(load_space(name), pinned).suggest(optuna.trial.FixedTrial({}))
    assert replace(again, seed=again.seed + int(dict(options)["--seed"])).config_hash == config.config_hash
