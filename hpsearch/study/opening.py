"""A run is opened to be searched: is the name free, does a resume fit what is there, the books. Ray-free."""

import dataclasses
import datetime
import json
from collections.abc import Sequence
from typing import Any

from greenprune_core.errors import ConfigError
from hpsearch import archive, objectives, provenance
from hpsearch.energy import used_profile
from hpsearch.search_run import SETTINGS, open_run, read_facts
from hpsearch.settings import SearchSettings
from hpsearch.storage import RunStorage
from hpsearch.study.draws import draw_distributions, first_profile
from hpsearch.study.feasibility import Constraints
from hpsearch.study.journal import JOURNAL, DriverJournal, study_name
from hpsearch.study.ledger import Ledger, by_configuration
from hpsearch.study.search_study import SearchStudy
from search_spaces import SearchSpace


def check_run(storage: RunStorage, settings: SearchSettings) -> None:
    """Refuse a name that is taken without --resume, and a resume that does not fit what is there.

    Raises:
        ConfigError: see above.
    """
    if not storage.exists(SETTINGS):
        if settings.resume:
            raise ConfigError(
                f"--resume goes on with an existing run, but {storage} is none; leave out --resume to begin it"
            )
        return
    if not settings.resume:
        raise ConfigError(
            f"a new run needs a free name, but {storage} exists; add --resume to go on with it, or take another --name"
        )
    before = read_facts(storage)
    made_with = before.get("settings")
    if "schema_version" not in before or not isinstance(made_with, dict):
        raise ConfigError(
            f"a run goes on with the settings that it was made with, but {storage}/{SETTINGS} lacks them; put back a "
            "copy, or begin a new run with --warm-start"
        )
    if before["schema_version"] != archive.SCHEMA_VERSION:
        raise ConfigError(
            f"a run goes on with the same columns, version {archive.SCHEMA_VERSION}, but {storage} has version "
            f"{before['schema_version']}; begin a new run with --warm-start or install the version that made it"
        )
    used_profile.check(before, settings)
    _check_journal(storage, settings.name)
    # the sampler is told means over the seeds: those of one number of seeds compare
    for field in ("space", "objective", "third_objective", "repeats"):
        old, new = made_with.get(field, getattr(SearchSettings, field)), getattr(settings, field)
        if old != new:
            raise ConfigError(
                f"a run keeps its {field.replace('_', '-')}, but {storage} was made with {old} and got {new}; "
                f"give --{field.replace('_', '-')} {old} or take another --name"
            )


def _check_journal(storage: RunStorage, name: str) -> None:
    """Refuse the journal of another study, before anything is started."""
    found = study_name(storage)
    if found is not None and found != name:
        raise ConfigError(
            f"a run's journal holds the study of its own name, {name!r}, but {storage}/{JOURNAL} holds {found!r}; "
            f"put that run's own journal back, or move the folder to {found}"
        )


def open_ledger(
    storage: RunStorage, settings: SearchSettings, space: SearchSpace, known: Sequence[dict[str, Any]] = ()
) -> tuple[Ledger, int]:
    """Make or reopen the books of a run; return them and how many cut-off trials are taken up again.

    `known` are trials of another run, which the sampler of a new one starts from.
    """
    chosen = objectives.choose(settings.objective, settings.third_objective)
    if not settings.resume:
        write_settings(storage, settings)
    study = SearchStudy(
        DriverJournal(storage),
        name=settings.name,
        space=space,
        objectives=chosen,
        sampler=settings.sampler,
        seed=settings.seed,
    )
    if settings.resume:
        write_settings(storage, settings)  # only now: a journal that is refused leaves the run as it was
    constraints = Constraints(max_energy_j=settings.max_energy_j, min_accuracy=settings.min_accuracy)
    ledger = Ledger(storage, study, chosen, constraints, provenance.version())
    if study.is_new:
        for rows in by_configuration(list(known)).values():
            ledger.learn(rows)
    return ledger, ledger.reconcile()


def read_warm_start(settings: SearchSettings, space: SearchSpace) -> list[dict[str, Any]]:
    """Return the complete trials of the run named by --warm-start.

    Raises:
        ConfigError: it is no run, has no complete trial, drew other names than this space, or does not know what this
            search makes better, from the same source.
    """
    if settings.warm_start is None:
        return []
    rows = [row for row in open_run(settings.warm_start).rows if row["state"] == "complete"]
    if not rows:
        raise ConfigError(
            f"a warm start needs a run with complete trials, but {settings.warm_start} has none; leave out --warm-start"
        )
    for row in rows:
        draw_distributions(space, row["params"] or {}, settings.warm_start)
    _check_values(rows, settings, space)
    return rows


def _check_values(rows: Sequence[dict[str, Any]], settings: SearchSettings, space: SearchSpace) -> None:
    """Refuse trials that lack an objective of this search, or have its cost from another source."""
    chosen = objectives.choose(settings.objective, settings.third_objective)
    source, column = used_profile.source_of(chosen[1], first_profile(space)), chosen[1].source_column
    for row in rows:
        try:
            objectives.costs(row, chosen)
        except objectives.ObjectiveError as error:
            raise ConfigError(
                f"a warm start needs trials with what is searched for, but trial {row['trial_id']} of "
                f"{settings.warm_start}: {error}; take a run with this --objective, or leave out --warm-start"
            ) from error
        if column is not None and row[column] != source:
            raise ConfigError(
                f"a warm start needs trials whose {chosen[1].name} is from {source}, as here, but that of "
                f"{settings.warm_start} is from {row[column] or 'an unknown source'}; give the --profile of that run, "
                "or leave out --warm-start"
            )
    for third in chosen[2:]:
        found = sorted({str(row.get(third.source_column or "")) for row in rows})
        if len(found) > 1:
            raise ConfigError(
                f"a warm start needs trials whose {third.name} is from one source, but those of {settings.warm_start} "
                f"are from {' and '.join(found)}; leave out --warm-start or --third-objective"
            )


def write_settings(storage: RunStorage, settings: SearchSettings) -> None:
    """Write settings.json: resolved settings, provenance, and the sessions that the run has had."""
    before = read_facts(storage) if storage.exists(SETTINGS) else {}
    session = {"started_at": datetime.datetime.now(tz=datetime.UTC).isoformat(), **provenance.describe()}
    content = {
        "schema_version": archive.SCHEMA_VERSION,
        "settings": dataclasses.asdict(settings),
        used_profile.KEY: used_profile.describe(settings),
        "sessions": [*before.get("sessions", []), session],
    }
    storage.write_bytes(SETTINGS, json.dumps(content, indent=2).encode())
