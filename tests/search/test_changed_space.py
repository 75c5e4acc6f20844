"""A resumed run may ask for more trials, other ranges and choices, another sampler. Without Ray."""

from pathlib import Path

import optuna
import pytest
import search_driver  # noqa: F401  puts the tabulated trials on the import path
import tabulated
from optuna.trial import TrialState

from greenprune_core.config import BudgetConfig, OptimiserConfig, PhaseConfig, TrialConfig
from hpsearch import archive
from hpsearch.settings import resolve
from hpsearch.storage import RunStorage
from hpsearch.study.ledger import Ledger
from hpsearch.study.opening import check_run, open_ledger
from search_spaces import SearchSpace

N_BEFORE, N_AFTER = 16, 24


def _space(
    low: float, high: float, shapes: tuple[str, ...] = ("linear", "cosine"), targets: tuple[float, ...] = ()
) -> SearchSpace:
    def suggest(trial):
        return TrialConfig(
            budget=BudgetConfig(target=trial.suggest_float("target", low, high)),
            phases=PhaseConfig(ramp_shape=trial.suggest_categorical("ramp_shape", shapes)),
            optimiser=OptimiserConfig(learning_rate=trial.suggest_float("learning_rate", 0.01, 0.3, log=True)),
        )

    points = tuple({"target": target, "ramp_shape": "linear"} for target in targets)
    return SearchSpace(name="line", suggest=suggest, first_points=points)


def _open(folder: Path, space: SearchSpace, **given) -> Ledger:
    settings, _ = resolve({"storage_path": str(folder), "name": "run", "trials": N_BEFORE, **given}, {})
    storage = RunStorage.open(settings.run)
    check_run(storage, settings)
    return open_ledger(storage, settings, space)[0]


def _run(ledger: Ledger, n_trials: int) -> list[TrialConfig]:
    drawn = []
    while ledger.n_finished < n_trials:
        suggestion = ledger.suggest()
        drawn.append(suggestion.config)
        ledger.finish(suggestion.trial_id, tabulated.InstantTrial(suggestion.config, Path()).finish())
    return drawn


def _resumed(folder: Path, space: SearchSpace, **given) -> list[TrialConfig]:
    """Search half of the range, cut two trials off, and return what the resumed search runs."""
    first = _open(folder, _space(0.4, 0.6))
    _run(first, N_BEFORE - 2)
    cut_off = [first.suggest().trial_id for _ in range(2)]
    first.interrupt_all()
    volume = first.tracker.hypervolume
    again = _open(folder, space, resume=True, trials=N_AFTER, **given)
    drawn = _run(again, N_AFTER)
    assert [config.config_hash for config in drawn[:2]] == cut_off, "what was cut off comes first"
    rows = archive.rows(archive.read_trials(RunStorage.open(folder / "run")))
    assert len({row["trial_id"] for row in rows}) == N_AFTER
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "run" / "study.journal"))
    study = optuna.load_study(study_name="run", storage=optuna.storages.JournalStorage(backend))
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == N_AFTER
    assert TrialState.RUNNING not in states
    assert again.tracker.hypervolume >= volume
    return drawn[2:]


def test_a_widened_space_is_drawn_from_in_its_new_parts(tmp_path):
    drawn = _resumed(tmp_path, _space(0.1, 1.0))
    assert sum(not 0.4 <= config.budget.target <= 0.6 for config in drawn) >= 2


def test_a_narrowed_space_is_kept_to(tmp_path):
    drawn = _resumed(tmp_path, _space(0.45, 0.5))
    assert all(0.45 <= config.budget.target <= 0.5 for config in drawn)


def test_choices_may_go_and_come(tmp_path):
    drawn = _resumed(tmp_path / "less", _space(0.4, 0.6, ("cosine",)))
    assert {config.phases.ramp_shape for config in drawn} == {"cosine"}
    drawn = _resumed(tmp_path / "more", _space(0.4, 0.6, ("linear", "cosine", "cubic")))
    assert "cubic" in {config.phases.ramp_shape for config in drawn}


@pytest.mark.parametrize("sampler", ["random", "nsga2", pytest.param("gp", marks=pytest.mark.slow)])
def test_another_sampler_goes_on_with_what_is_known(tmp_path, sampler):
    assert len(_resumed(tmp_path, _space(0.4, 0.6), sampler=sampler)) == N_AFTER - N_BEFORE


@pytest.mark.parametrize(
    ("low", "shapes", "expected"),
    [
        (0.4, ("linear", "cosine", "cubic"), [0.45, 0.5, 0.55]),
        (0.4, ("linear",), [0.45, 0.5, 0.55]),
        (0.4, ("cosine",), []),
        (0.5, ("linear", "cosine"), [0.5, 0.55]),
    ],
)
def test_first_points_that_wait_are_drawn_from_the_changed_space_or_given_up(tmp_path, low, shapes, expected):
    first = _open(tmp_path, _space(0.4, 0.6, targets=(0.42, 0.45, 0.5, 0.55)))
    _run(first, 1)
    first.study.flush()
    for _ in range(2):  # one that was opened and ended before it asked changes nothing
        again = _open(tmp_path, _space(low, 0.6, shapes), resume=True)
        assert again.n_finished == 1
    drawn = _run(again, 8)
    assert [config.budget.target for config in drawn[: len(expected)]] == expected
    assert {config.phases.ramp_shape for config in drawn} <= set(shapes)
    assert all(config.budget.target >= low for config in drawn)
    assert [trial.state for trial in again.study._trials()].count(TrialState.COMPLETE) == 8


def _judged(ledger: Ledger) -> list[float]:
    """What the sampler is told of the known trials: the violation of --max-energy, met at <= 0."""
    trials = ledger.study._mirror._study.get_trials(states=[TrialState.COMPLETE])
    return sorted(trial.constraints["max_energy"] for trial in trials)


def test_known_trials_are_judged_by_the_constraints_of_the_resumed_search(tmp_path):
    first = _open(tmp_path, _space(0.4, 0.6))
    _run(first, N_BEFORE)
    energies = [row["energy_j"] for row in archive.rows(archive.read_trials(first.storage))]
    limit = sorted(energies)[4]
    again = _open(tmp_path, _space(0.4, 0.6), resume=True, max_energy=f"{limit!r}J")
    assert _judged(again) == pytest.approx(sorted(energy / limit - 1 for energy in energies))
    loose = _open(tmp_path, _space(0.4, 0.6), resume=True, max_energy="1kJ")
    assert max(_judged(loose)) < 0


def test_trials_of_a_warm_start_are_judged_by_the_constraints_of_the_new_run(tmp_path):
    first = _open(tmp_path, _space(0.4, 0.6))
    _run(first, N_BEFORE)
    known = archive.rows(archive.read_trials(first.storage))
    limit = sorted(row["energy_j"] for row in known)[4]
    settings, _ = resolve({"storage_path": str(tmp_path), "name": "new", "max_energy": f"{limit!r}J"}, {})
    new, _ = open_ledger(RunStorage.open(settings.run), settings, _space(0.4, 0.6), known)
    assert sum(violation <= 0 for violation in _judged(new)) == 5
