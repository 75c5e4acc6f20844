"""Values of two sources are not told to one sampler: what the front leaves out, the search does not learn from."""

import search_driver  # noqa: F401  puts the tabulated trials on the import path
import tabulated
from optuna.trial import TrialState

from hpsearch.search_run import open_run
from hpsearch.settings import resolve
from hpsearch.storage import RunStorage
from hpsearch.study.opening import open_ledger


def _open(folder, **given):
    options = {"storage_path": str(folder), "name": "run", "trials": 9, "third_objective": "training-energy", **given}
    settings, _ = resolve(options, {})
    return open_ledger(RunStorage.open(settings.run), settings, tabulated.SPACE)[0]


def _finish(ledger, source, joules):
    row = {"val_accuracy": 0.9, "energy_j": 1e-3, "energy_source": "model:m", "dense_energy_j": 2e-3}
    trial_id = ledger.suggest().trial_id
    assert ledger.finish(trial_id, {**row, "train_energy_j": joules, "train_energy_source": source}) == "complete"
    return trial_id


def _told(ledger):
    trials = ledger.study._trials(TrialState.COMPLETE)
    return {trial.user_attrs["config_hash"]: trial.values[2] for trial in trials}


def test_joules_of_a_meter_and_of_the_model_are_not_told_to_one_sampler(tmp_path):
    ledger = _open(tmp_path)
    counted = [_finish(ledger, "nvml", joules) for joules in (50.0, 60.0)]
    modelled = _finish(ledger, "model:m", 0.1)
    assert _told(ledger) == dict(zip(counted, (50.0, 60.0), strict=True))
    assert len(ledger.tracker.front) == 1  # the cheapest that was counted
    assert ledger.n_finished == ledger.counts["complete"] == 3
    left_out = open_run(tmp_path / "run").compared.left_out
    assert left_out == {"its training-energy is from model:m, not from nvml": 1}
    assert ledger.study.is_known(modelled)  # it is not drawn again


def test_a_run_that_is_opened_again_goes_by_the_source_of_most_of_its_trials(tmp_path):
    ledger = _open(tmp_path)
    for source in ("model:m", "nvml", "nvml"):
        _finish(ledger, source, 5.0)
    again = _open(tmp_path, resume=True)
    assert again.n_finished == 3
    fresh = _finish(again, "nvml", 7.0)
    assert _told(again)[fresh] == 7.0
