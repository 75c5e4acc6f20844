"""The study: nothing is asked twice, every end is told, a killed driver leaves what a new one can take up."""

import math
import os
import subprocess
import sys
from pathlib import Path

import optuna
import pyarrow.fs as pafs
import pytest
from optuna.trial import TrialState

from greenprune_core.config import BudgetConfig, TrialConfig
from greenprune_core.errors import ConfigError
from hpsearch.objectives import choose
from hpsearch.storage import RunStorage
from hpsearch.study.journal import DriverJournal, JournalReader
from hpsearch.study.mirror import SAMPLERS
from hpsearch.study.optuna_study import replay
from hpsearch.study.search_study import SearchStudy
from search_spaces import SearchSpace

POINTS = ({"target": 0.5}, {"target": 0.25})


def _suggest(trial):
    return TrialConfig(budget=BudgetConfig(target=trial.suggest_float("target", 0.1, 1.0)))


def _suggest_three(trial):
    return TrialConfig(budget=BudgetConfig(target=trial.suggest_categorical("target", [0.2, 0.4, 0.6])))


SPACE = SearchSpace(name="line", suggest=_suggest, first_points=POINTS)
THREE = SearchSpace(name="three", suggest=_suggest_three)


def _open(folder: Path, space: SearchSpace = SPACE, **options) -> SearchStudy:
    return SearchStudy(DriverJournal(RunStorage.open(folder)), name="run", space=space, objectives=choose(), **options)


def _read(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "study.journal")))
    return optuna.load_study(study_name="run", storage=storage).trials


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_the_first_points_of_the_space_are_tried_first(folder):
    study = _open(folder)
    assert [study.ask().config.budget.target for _ in POINTS] == [0.5, 0.25]


def test_optuna_finds_values_constraints_and_attributes_through_its_own_api(folder):
    study = _open(folder)
    suggestion = study.ask()
    study.tell_complete(suggestion.trial_id, [0.9, 2e-6], attributes={"macs": 7}, constraints={"max_energy": -0.5})
    (trial,) = [trial for trial in _read(folder) if trial.state == TrialState.COMPLETE]
    assert trial.values == [0.9, 2e-6]
    assert trial.constraints == {"max_energy": -0.5}
    assert trial.user_attrs["macs"] == 7
    assert trial.params == {"target": 0.5}


def test_complete_stopped_and_failed_are_told_as_complete_pruned_and_fail(folder):
    study = _open(folder)
    a, b, c = (study.ask().trial_id for _ in range(3))
    study.tell_complete(a, [0.9, 1.0], attributes={}, constraints={})
    study.tell_stopped(b, attributes={})
    study.tell_failed(c, "because")
    states = [trial.state for trial in _read(folder)]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]


def test_one_configuration_is_not_drawn_twice_and_an_exhausted_space_ends(folder):
    study = _open(folder, THREE)
    drawn = [study.ask() for _ in range(3)]
    assert len({suggestion.trial_id for suggestion in drawn}) == 3
    assert study.ask() is None


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_after_results_and_sees_constraints(folder, sampler):
    study = _open(folder, sampler=sampler, seed=3)
    for _ in range(14):
        suggestion = study.ask()
        target = suggestion.config.budget.target
        study.tell_complete(
            suggestion.trial_id, [1 - (1 - target) ** 2, target], attributes={}, constraints={"max": target - 0.6}
        )
    finished = [trial for trial in _read(folder) if trial.state == TrialState.COMPLETE]
    assert len(finished) == 14
    assert all(math.isclose(trial.constraints["max"], trial.params["target"] - 0.6) for trial in finished)


def test_equal_seeds_draw_equal_points(tmp_path):
    drawn = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        study = _open(tmp_path / name, seed=5)
        drawn.append([study.ask().trial_id for _ in range(6)])
    assert drawn[0] == drawn[1]


def test_what_a_killed_driver_left_running_is_told_and_drawn_again(folder):
    first = _open(folder)
    lost = [first.ask().trial_id for _ in range(2)]
    del first  # no goodbye: the journal is as a kill -9 leaves it
    second = _open(folder)
    assert sorted(second.adopt_running()) == sorted(lost)
    for trial_id in lost:
        second.tell_interrupted(trial_id)
    assert second.requeue_interrupted() == 2
    assert sorted(second.ask().trial_id for _ in range(2)) == sorted(lost)
    assert second.requeue_interrupted() == 0


def test_a_torn_last_line_of_the_journal_is_dropped(folder):
    study = _open(folder)
    trial_id = study.ask().trial_id
    del study
    whole = (folder / "study.journal").read_bytes()
    (folder / "study.journal").write_bytes(whole + b'{"op_code": 4, "trial')
    again = _open(folder)
    assert again.adopt_running() == [trial_id]
    again.ask()
    assert (folder / "study.journal").read_bytes().startswith(whole)
    assert len(_read(folder)) == 2


def test_a_trial_costs_one_synchronised_write_of_the_journal_and_its_end_is_there_at_once(folder, monkeypatch):
    study, synchronised = _open(folder), []
    fsync = os.fsync
    monkeypatch.setattr("hpsearch.study.journal.os.fsync", lambda number: (synchronised.append(number), fsync(number)))
    for n_told in (1, 2, 3):
        trial_id = study.ask().trial_id
        study.tell_complete(trial_id, [0.9, 1.0], attributes={}, constraints={})
        assert sum(trial.state == TrialState.COMPLETE for trial in _read(folder)) == n_told, "as a kill -9 leaves it"
    assert len(synchronised) == 3
    study.flush()
    study.flush()
    assert len(synchronised) == 4, "the last end was handed over, and is synchronised once"


def test_in_an_object_store_an_end_goes_out_with_the_next_suggestion(folder):
    store = pafs.SubTreeFileSystem(str(folder.parent), pafs.LocalFileSystem())
    storage = RunStorage("store", store, folder.name)
    assert storage.local is None, "only whole files, as in a bucket"
    journal = DriverJournal(storage)
    study = SearchStudy(journal, name="run", space=SPACE, objectives=choose())
    study.tell_complete(study.ask().trial_id, [0.9, 1.0], attributes={}, constraints={})
    assert [trial.state for trial in _read(folder)].count(TrialState.RUNNING) == 1, "told again from its row"
    study.flush()
    assert [trial.state for trial in _read(folder)].count(TrialState.COMPLETE) == 1


@pytest.mark.parametrize(
    "line", ["123", "{}", "null", "[]", '{"op_code": 99}', '{"op_code": 4, "worker_id": "x"}', "\0\0"]
)
def test_a_whole_line_that_is_no_operation_is_refused_with_the_way_out(folder, line):
    _open(folder).ask()
    with (folder / "study.journal").open("a") as stream:
        stream.write(f"{line}\n")
    with pytest.raises(ConfigError, match=r"study\.journal .*restore the file from a copy"):
        _open(folder)
    with pytest.raises(ConfigError, match=r"study\.journal .*restore the file from a copy"):
        replay(JournalReader(RunStorage.open(folder)))


FULL_DISK = """
import resource, sys
from greenprune_core.errors import ConfigError
from hpsearch.study.journal import JOURNAL, DriverJournal
from hpsearch.storage import RunStorage

storage = RunStorage.open(sys.argv[1])
journal = DriverJournal(storage)
before = storage.read_bytes(JOURNAL)
resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 7, resource.RLIM_INFINITY))
journal.append_logs([{"op_code": 4, "worker_id": "w"}])
for write in (journal.flush, journal.hand_over, journal.flush):
    try:
        write()
    except ConfigError as error:
        print(error)
    assert storage.read_bytes(JOURNAL) == before
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.flush()
assert storage.read_bytes(JOURNAL) == before + b'{"op_code":4,"worker_id":"w"}\\n'
"""


def test_a_write_that_a_full_disk_cuts_off_is_taken_back_and_comes_whole_at_the_next_try(folder):
    _open(folder).ask()
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("check the rights and the free space, then go on with --resume") == 3


def test_a_journal_that_cannot_be_opened_is_the_users_to_mend(folder):
    study = _open(folder)
    (folder / "study.journal").unlink()
    (folder / "study.journal").mkdir()
    with pytest.raises(ConfigError, match="check the rights and the free space, then go on with --resume"):
        study.ask()


def test_what_a_loss_of_power_leaves_at_the_end_is_dropped(folder):
    trial_id = _open(folder).ask().trial_id
    with (folder / "study.journal").open("ab") as stream:
        stream.write(b"\0" * 5000)
    assert _open(folder).adopt_running() == [trial_id]


def test_a_journal_of_another_study_is_refused(folder):
    _open(folder)
    with pytest.raises(ConfigError, match="study 'other'"):
        SearchStudy(DriverJournal(RunStorage.open(folder)), name="other", space=SPACE, objectives=choose())


def test_a_resumed_study_takes_another_range_but_no_other_kind_of_parameter(folder):
    study = _open(folder)
    study.tell_complete(study.ask().trial_id, [0.9, 1.0], attributes={}, constraints={})

    def wider(trial):
        return TrialConfig(budget=BudgetConfig(target=trial.suggest_float("target", 0.01, 1.0)))

    assert _open(folder, SearchSpace(name="line", suggest=wider)).ask() is not None
    again = _open(folder, THREE)
    with pytest.raises(ConfigError, match="names keep their kind"):
        [again.ask() for _ in range(3)]


def test_rows_from_elsewhere_need_the_names_of_the_space(folder):
    study = _open(folder)
    study.add_row({"target": 0.3}, [0.8, 1.0], config_hash=None, attributes={})
    with pytest.raises(ConfigError, match="names"):
        study.add_row({"width": 3}, [0.8, 1.0], config_hash=None, attributes={})
    assert [trial.params for trial in _read(folder) if trial.state == TrialState.COMPLETE] == [{"target": 0.3}]


def test_unknown_samplers_are_named_with_the_known_ones(folder):
    with pytest.raises(ConfigError, match="tpe, nsga2"):
        _open(folder, sampler="magic")
