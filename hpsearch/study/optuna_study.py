"""Optuna's study in a run's journal: made, or opened again if it is the run's own."""

from collections.abc import Sequence

import optuna
from optuna.study import Study, StudyDirection

from greenprune_core.errors import ConfigError
from hpsearch.objectives import Objective
from hpsearch.study.journal import DriverJournal, JournalReader


def open_study(
    journal: DriverJournal, name: str, objectives: Sequence[Objective], seed: int
) -> tuple[optuna.storages.JournalStorage, Study, bool]:
    """Return storage and study of a run, and whether the study was made just now.

    Raises:
        ConfigError: the journal is damaged, or belongs to another study or to other objectives.
    """
    storage = replay(journal)
    directions = [
        StudyDirection.MAXIMIZE if objective.is_maximised else StudyDirection.MINIMIZE for objective in objectives
    ]
    names = [study.study_name for study in storage.get_all_studies()]
    if names and names != [name]:
        raise ConfigError(f"a run's journal holds the study {name!r}, but got {names}; take the journal of this run")
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=directions,
        # draws only what a first point leaves open
        sampler=optuna.samplers.RandomSampler(seed=seed),
        load_if_exists=True,
    )
    if study.directions != directions:
        raise ConfigError(
            f"a run keeps its objectives, but got {len(directions)} for a study of {len(study.directions)}; "
            "use the same or another --name"
        )
    return storage, study, not names


def replay(journal: DriverJournal | JournalReader) -> optuna.storages.JournalStorage:
    """Return what a journal tells.

    Raises:
        ConfigError: one of its lines is no operation of Optuna.
    """
    try:
        return optuna.storages.JournalStorage(journal)
    except Exception as error:  # Optuna checks nothing: what a damaged line raises depends on the byte
        raise ConfigError(
            f"a journal holds operations of Optuna, but {journal} has one that cannot be replayed "
            f"({type(error).__name__}: {error}); restore the file from a copy, or start a new run with --warm-start"
        ) from error
