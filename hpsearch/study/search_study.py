"""The Optuna study of a run: what is drawn next, and what became of it. Ray-free.

A trial's identity is the hash of its configuration: one configuration is run once, whatever the sampler says. The
journal is flushed with every suggestion and handed over with every result: both survive a kill from that moment.
"""

import copy
import json
import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from greenprune_core.config import TrialConfig
from greenprune_core.errors import ConfigError
from hpsearch.objectives import Objective
from hpsearch.study.draws import conform, draw_distributions, draw_point, present_distributions
from hpsearch.study.journal import DriverJournal
from hpsearch.study.mirror import Drawn, Mirror, snapshot
from hpsearch.study.optuna_study import open_study
from search_spaces import SearchSpace

logger = logging.getLogger(__name__)

HASH = "config_hash"
CONFIG = "config"
INTERRUPTED = "interrupted"
REASON = "reason"
RUNG = "rung:"

_POINT = "fixed_params"
"""Where Optuna keeps a first point at a trial that waits."""
_TRIES = 100
_TRIES_OF_SAMPLER = 20


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """One configuration to run."""

    trial_id: str
    """Hash of the configuration: the trial's name in the run folder."""
    number: int
    """Number of the trial in the study."""
    params: dict[str, Any]
    """The draws behind the configuration."""
    config: TrialConfig
    """What to run."""


class SearchStudy:
    """Draws configurations and takes results; every call leaves a journal from which the run can go on."""

    def __init__(
        self,
        journal: DriverJournal,
        *,
        name: str,
        space: SearchSpace,
        objectives: Sequence[Objective],
        sampler: str = "tpe",
        seed: int = 0,
        sampler_seed: int | None = None,
    ) -> None:
        """Open the study of a run, or make it and queue the space's first points.

        `seed` is added to the seed of every trial, and seeds the sampler too unless `sampler_seed` does.

        Raises:
            ConfigError: the journal belongs to another study or to other objectives.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._journal = journal
        self._space = space
        self._objectives = tuple(objectives)
        self._seed = seed
        self._storage, self._study, self.is_new = open_study(journal, name, objectives, seed)
        known = self._trials()
        # a sampler that starts again with the same seed would draw the same points again
        self._mirror = Mirror(
            sampler, (seed if sampler_seed is None else sampler_seed) + len(known), self._study.directions
        )
        self._mirror.learn(conform(known, present_distributions(space)) if known else known)
        self._open: dict[str, tuple[Trial, Drawn | None]] = {}
        self._seen = {trial.user_attrs[HASH] for trial in known if _is_settled(trial)}
        self._kinds = {name: kind for trial in known for name, kind in trial.distributions.items()}
        self._n_waiting = sum(trial.state == TrialState.WAITING for trial in known)
        if self.is_new:
            self._begin()
        else:
            self._renew_first_points()
        journal.flush()

    @property
    def open_ids(self) -> list[str]:
        """Ids of the trials that were suggested here and not yet told."""
        return list(self._open)

    def ask(self) -> Suggestion | None:
        """Draw a configuration that was not run yet; None if a hundred draws found only known ones.

        Raises:
            ConfigError: the space and the study do not fit together.
        """
        try:
            while self._n_waiting:
                self._n_waiting -= 1
                suggestion = self._ask_waiting()
                if suggestion is not None:
                    return suggestion
            for attempt in range(_TRIES):
                suggestion = self._ask_sampler(at_random=attempt >= _TRIES_OF_SAMPLER)
                if suggestion is not None:
                    return suggestion
        finally:
            self._journal.flush()
        return None

    def tell_complete(
        self, trial_id: str, values: Sequence[float], *, attributes: Mapping[str, Any], constraints: Mapping[str, float]
    ) -> None:
        """Take in a finished trial: its objectives' values, what else is known, and constraints (met at <= 0)."""
        for name, value in constraints.items():
            self._open[trial_id][0].set_constraint(name, value)
        self._tell(trial_id, TrialState.COMPLETE, attributes, list(values))

    def tell_stopped(self, trial_id: str, *, attributes: Mapping[str, Any]) -> None:
        """Take in a trial that was stopped early; it has no values and is on no front."""
        self._tell(trial_id, TrialState.PRUNED, attributes)

    def tell_failed(self, trial_id: str, reason: str, *, attributes: Mapping[str, Any] | None = None) -> None:
        """Take in a trial that failed."""
        self._tell(trial_id, TrialState.FAIL, {**(attributes or {}), REASON: reason})

    def tell_interrupted(self, trial_id: str) -> None:
        """Take in a trial that the search's end cut off; a resumed search takes it up again."""
        self._seen.discard(trial_id)
        self._tell(trial_id, TrialState.FAIL, {INTERRUPTED: True})

    def note_rung(self, trial_id: str, rung: int, accuracy: float, energy_j: float) -> None:
        """Enter what a running trial reported at a rung."""
        self._open[trial_id][0].set_user_attr(f"{RUNG}{rung}", [accuracy, energy_j])
        self._journal.flush()

    def noted_rungs(self) -> list[tuple[str, int, float, float]]:
        """Return all reports at rungs as (trial id, rung, accuracy, energy in joules), in the order of trials."""
        return [
            (trial.user_attrs[HASH], int(name.removeprefix(RUNG)), *report)
            for trial in self._trials()
            for name, report in trial.user_attrs.items()
            if name.startswith(RUNG)
        ]

    def adopt_running(self) -> list[str]:
        """Take over the trials that a killed search left RUNNING, and return their ids; each waits to be told."""
        for frozen in self._trials(TrialState.RUNNING):
            trial = Trial(self._study, frozen._trial_id)
            if HASH in frozen.user_attrs:
                self._open[frozen.user_attrs[HASH]] = (trial, None)
            else:
                # killed in the middle of a suggestion: nothing was started
                self._study.tell(trial, state=TrialState.FAIL)
        self._journal.flush()
        return list(self._open)

    def requeue_interrupted(self) -> int:
        """Queue what was cut off and not taken up since, with the same draws; return how many wait now.

        Some may wait already: queued by a session that ended before it took them up.
        """
        waiting = {t.user_attrs[HASH] for t in self._trials(TrialState.WAITING) if _POINT not in t.system_attrs}
        lost = {t.user_attrs[HASH]: t for t in self._trials(TrialState.FAIL) if INTERRUPTED in t.user_attrs}
        again = [trial for key, trial in lost.items() if key not in self._seen and key not in waiting]
        for trial in again:
            self._queue(trial, {name: trial.user_attrs[name] for name in (HASH, CONFIG)})
        self._journal.flush()
        return len(again) + len(waiting)

    def add_row(
        self,
        params: Mapping[str, Any],
        values: Sequence[float],
        *,
        config_hash: str | None,
        attributes: Mapping[str, Any],
        constraints: Mapping[str, float] | None = None,
    ) -> None:
        """Enter a finished trial that was run elsewhere, so that the sampler knows it; constraints are met at <= 0.

        Raises:
            ConfigError: its draws are not those of this space.
        """
        distributions = draw_distributions(self._space, params)
        known = {} if config_hash is None else {HASH: config_hash}
        self.fill(
            [
                create_trial(
                    values=list(values),
                    params=dict(params),
                    distributions=distributions,
                    user_attrs={**attributes, **known},
                    constraints=dict(constraints or {}),
                )
            ]
        )
        self._seen.update(known.values())

    def fill(self, trials: Iterable[FrozenTrial]) -> None:
        """Enter finished trials as they are, without a look at the space."""
        entered = list(trials)
        self._study.add_trials(entered)
        self._journal.flush()
        self._mirror.learn(entered)

    def judge(self, constraints: Mapping[str, Mapping[str, float]]) -> None:
        """Let the sampler judge known trials, by id, by present constraints; the journal keeps those of their time."""
        self._mirror.judge(lambda trial: constraints.get(trial.user_attrs.get(HASH, "")))

    def flush(self) -> None:
        """Write and synchronise the journal: at the end of a search no suggestion follows that would."""
        self._journal.flush()

    def is_known(self, trial_id: str) -> bool:
        """Say whether a configuration was told or is running."""
        return trial_id in self._seen

    def settle(self, trial_id: str) -> None:
        """Let a configuration count as told: it ended without values, and is not drawn again."""
        self._seen.add(trial_id)

    def _begin(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.set_metric_names([objective.column for objective in self._objectives])
        for point in self._space.first_points:
            self._study.enqueue_trial(dict(point))
        self._n_waiting = len(self._space.first_points)

    def _renew_first_points(self) -> None:
        """Queue first points that still wait as the present space draws them; those outside it are given up."""
        for old in self._trials(TrialState.WAITING):
            if _POINT not in old.system_attrs:
                continue  # was cut off: goes on with its own draws
            trial = draw_point(self._space, old.system_attrs[_POINT], self._seed + old.number)
            if trial is not None and all(
                self._kinds.get(name, kind) == kind for name, kind in trial.distributions.items()
            ):
                continue  # as before: drawn when its turn comes
            self._storage.set_trial_state_values(old._trial_id, TrialState.FAIL)
            self._n_waiting -= 1
            if trial is not None:
                config = self._draw(trial)
                own = {HASH: config.config_hash, CONFIG: json.dumps(config.to_dict())}
                self._queue(trial, own, {_POINT: old.system_attrs[_POINT]})

    def _queue(
        self, drawn: Trial | FrozenTrial, attributes: Mapping[str, Any], point: Mapping[str, Any] | None = None
    ) -> None:
        """Let a trial wait whose draws are known, so that none of them is asked for again."""
        self._study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                params=drawn.params,
                distributions=drawn.distributions,
                user_attrs=dict(attributes),
                system_attrs=dict(point or {}),
            )
        )
        self._n_waiting += 1

    def _ask_waiting(self) -> Suggestion | None:
        """Take what waits: a first point, or a trial that was cut off."""
        trial = self._study.ask()
        if CONFIG in trial.user_attrs:
            config = TrialConfig.from_dict(json.loads(trial.user_attrs[CONFIG]))
        else:
            config = self._draw(trial)
        if config.config_hash in self._seen:
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        trial.set_user_attr(HASH, config.config_hash)
        trial.set_user_attr(CONFIG, json.dumps(config.to_dict()))
        return self._start(trial, None, config)

    def _ask_sampler(self, *, at_random: bool) -> Suggestion | None:
        """Draw in the mirror, and enter what is new into the journal as one line."""
        drawn = self._mirror.ask(at_random=at_random)
        config = self._draw(drawn.trial)
        if config.config_hash in self._seen:
            self._mirror.drop(drawn)
            return None
        template = copy.copy(snapshot(drawn.trial))
        template.user_attrs = {HASH: config.config_hash, CONFIG: json.dumps(config.to_dict())}
        # what a genetic sampler notes, its generation, has to outlive this process
        template.system_attrs = {k: v for k, v in template.system_attrs.items() if not k.startswith("tpe:")}
        trial = Trial(self._study, self._storage.create_new_trial(self._study._study_id, template))
        return self._start(trial, drawn, config)

    def _start(self, trial: Trial, drawn: Drawn | None, config: TrialConfig) -> Suggestion:
        trial_id = config.config_hash
        self._seen.add(trial_id)
        self._open[trial_id] = (trial, drawn)
        return Suggestion(trial_id=trial_id, number=trial.number, params=trial.params, config=config)

    def _draw(self, trial: Trial) -> TrialConfig:
        try:
            config = self._space.suggest(trial)
            for name, distribution in trial.distributions.items():
                before = self._kinds.setdefault(name, distribution)
                if type(before) is not type(distribution):
                    raise ValueError(f"{name} was drawn from {before} and is now from {distribution}")
        except ValueError as error:
            raise ConfigError(
                f"a space draws valid configurations, and names keep their kind, but {self._space.name}: {error}; "
                "change ranges and choices only when resuming, or take another --name"
            ) from error
        # added, so that a seed pinned by the user counts from there
        return replace(config, seed=config.seed + self._seed)

    def _tell(
        self,
        trial_id: str,
        state: TrialState,
        attributes: Mapping[str, Any],
        values: list[float] | None = None,
    ) -> None:
        trial, drawn = self._open.pop(trial_id)
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        self._study.tell(trial, values, state=state)
        # its row is on the disk and tells it again after a loss of power; the next suggestion synchronises both
        self._journal.hand_over()
        self._mirror.take_in(self._storage.get_trial(trial._trial_id), drawn)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)


def _is_settled(trial: FrozenTrial) -> bool:
    """Whether this trial's configuration needs no further run: told or running, but not cut off or a duplicate."""
    attributes = trial.user_attrs
    return HASH in attributes and INTERRUPTED not in attributes and trial.state != TrialState.WAITING
