"""The sampler's own picture of a study, in memory: what it draws from, and no more than it can use.

Drawing costs time with every finished trial that the sampler looks at (TPE with two objectives: 0.8 s a draw at 10,000
on an idle core), and every draw would go line by line into the journal. So samplers draw here, from the study's best
and latest trials, and the journal gets one line per trial.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from greenprune_core.errors import ConfigError
from hpsearch.study.rungs import best

SAMPLERS = ("tpe", "nsga2", "nsga3", "gp", "random")

WINDOW = {"tpe": 400, "gp": 150}
"""Finished trials that a sampler draws from after a cut; it is made when twice as many have gathered. The genetic
samplers look at their last generation only, so they keep all."""
RUNNING = 200
"""Running trials that a sampler sees, the latest: TPE keeps away from them. With 1,024 a draw took twice as long."""
BEST_SHARE = 0.4
"""Share of the window for the best trials; the rest are the latest, which say where the search has been."""
LEARNT = (TrialState.COMPLETE, TrialState.PRUNED)


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """Return a sampler that knows constraints; `seed` makes its draws repeatable.

    Multivariate TPE is the default of a search: it sees that parameters depend on each other, and after 1,000 trials it
    draws in 42 ms where the independent one takes 118 ms. GP models best and takes seconds per draw.

    Raises:
        ConfigError: no such sampler.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return optuna.samplers.TPESampler(multivariate=True, group=True, seed=seed)
        if name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed)
        if name == "nsga3":
            return optuna.samplers.NSGAIIISampler(seed=seed)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed)
        if name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
    raise ConfigError(f"sampler is one of {', '.join(SAMPLERS)}, but got {name!r}; choose one of them")


class Drawn:
    """A trial under way in the mirror; the handle stays when the mirror is made anew."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial


class Mirror:
    """A study in memory from which one sampler draws."""

    def __init__(self, sampler: str, seed: int, directions: Sequence[StudyDirection]) -> None:
        self._sampler = make_sampler(sampler, seed)
        self._random = make_sampler("random", seed + 1)
        self._directions = list(directions)
        self._window = WINDOW.get(sampler)
        self._n_finished = 0
        self._running: list[Drawn] = []
        self._study = optuna.create_study(directions=self._directions, sampler=self._sampler)

    def ask(self, *, at_random: bool = False) -> Drawn:
        """Begin a trial; its parameters are drawn as they are asked for."""
        self._study.sampler = self._random if at_random else self._sampler
        drawn = Drawn(self._study.ask())
        self._running.append(drawn)
        if len(self._running) > RUNNING:
            self.drop(self._running[0])
        return drawn

    def drop(self, drawn: Drawn) -> None:
        """Forget a trial that came to nothing."""
        self._running.remove(drawn)
        self._study.tell(drawn.trial, state=TrialState.FAIL)

    def take_in(self, finished: FrozenTrial, drawn: Drawn | None) -> None:
        """Learn how a trial ended: one that was drawn here, or one from elsewhere (None)."""
        if finished.state not in LEARNT:
            if drawn is not None and drawn in self._running:
                self.drop(drawn)
            return
        if drawn is None or drawn not in self._running:
            self._study.add_trial(finished)
        else:
            self._running.remove(drawn)
            for name, value in finished.constraints.items():
                drawn.trial.set_constraint(name, value)
            self._study.tell(drawn.trial, finished.values, state=finished.state)
        self._n_finished += 1
        if self._window is not None and self._n_finished >= 2 * self._window:
            self.learn([])

    def learn(self, trials: Iterable[FrozenTrial]) -> None:
        """Learn finished trials at once, and keep no more than the sampler draws from."""
        known = self._study.get_trials(deepcopy=False, states=LEARNT)
        self._fill([*known, *(trial for trial in trials if trial.state in LEARNT)])

    def judge(self, constraints: Callable[[FrozenTrial], Mapping[str, float] | None]) -> None:
        """Judge the known trials by other constraints than those of their time; None leaves one as it is."""
        known = self._study.get_trials(deepcopy=False, states=LEARNT)
        judged = [_judged(trial, constraints(trial)) for trial in known]
        if any(new is not old for new, old in zip(judged, known, strict=True)):
            self._fill(judged)

    def _fill(self, known: list[FrozenTrial]) -> None:
        """Make the study anew from these trials and those that run."""
        kept = known if self._window is None else _choose(known, self._window, self._directions)
        self._study = optuna.create_study(directions=self._directions, sampler=self._sampler)
        self._study.add_trials(kept)
        self._n_finished = len(kept)
        for drawn in self._running:
            self._study.add_trial(snapshot(drawn.trial))
            drawn.trial = Trial(self._study, self._study.get_trials(deepcopy=False)[-1]._trial_id)


def snapshot(trial: Trial) -> FrozenTrial:
    """Return a trial as it stands, with what the sampler noted at it."""
    return trial.storage.get_trial(trial._trial_id)


def _judged(trial: FrozenTrial, constraints: Mapping[str, float] | None) -> FrozenTrial:
    if constraints is None or dict(constraints) == trial.constraints:
        return trial
    return optuna.trial.create_trial(
        state=trial.state,
        values=trial.values,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs,
        # Optuna keeps constraints among them
        system_attrs={name: value for name, value in trial.system_attrs.items() if not name.startswith("constraints")},
        constraints=dict(constraints),
    )


def _choose(trials: Sequence[FrozenTrial], n_kept: int, directions: Sequence[StudyDirection]) -> list[FrozenTrial]:
    """Return the best trials (feasible, then by non-domination, then spread out) and the latest of the others."""
    if len(trials) <= n_kept:
        return list(trials)
    signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions]
    feasible = [
        place
        for place, trial in enumerate(trials)
        if trial.values is not None and all(value <= 0 for value in trial.constraints.values())
    ]
    costs = [[sign * value for sign, value in zip(signs, trials[place].values, strict=True)] for place in feasible]
    places = {feasible[place] for place in best(costs, round(BEST_SHARE * n_kept))} if feasible else set()
    others = [place for place in range(len(trials)) if place not in places]
    places |= set(others[len(others) - (n_kept - len(places)) :])
    return [trials[place] for place in sorted(places)]
