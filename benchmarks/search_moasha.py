"""MO-ASHA of Syne Tune for benchmarks/search_quality.py, in an environment of its own.

    uv venv syne && uv pip install -p syne syne-tune
    python benchmarks/search_quality.py --syne-python syne/bin/python

It hears of every epoch. As it comes (random draws, grace 1, reduction factor 3) version 0.16 stops nearly all trials in
their first epoch: `Bracket.on_result` takes what `nondominated_sort` returns, the order of the trials, for their ranks.
With "ranks" the order is inverted through the class's own `multiobjective_priority`.

Lines of JSON on standard input: {"space": {name: n of places}, "seed", "epochs", "ranks", "grace", "factor"} first,
then {"ask": number} -> places on the axes, {"report": number, "epoch", "error", "energy_j"} -> whether it goes on.
"""

import json
import random
import sys
from datetime import datetime

import numpy as np
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import randint
from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA
from syne_tune.optimizer.schedulers.multiobjective.multiobjective_priority import NonDominatedPriority


class Ranks(NonDominatedPriority):
    """Rank of each trial, where the class it comes from returns the trials in their order."""

    def priority_unsafe(self, objectives: np.ndarray) -> np.ndarray:
        """Return the rank of each row, 0 for the best."""
        return np.argsort(super().priority_unsafe(objectives))


def main() -> None:
    """Answer line by line until the input ends."""
    begin = json.loads(sys.stdin.readline())
    random.seed(begin["seed"])
    np.random.seed(begin["seed"])
    scheduler = MOASHA(
        config_space={name: randint(0, places - 1) for name, places in begin["space"].items()},
        metrics=["error", "energy_j"],
        time_attr="epoch",
        max_t=begin["epochs"],
        multiobjective_priority=Ranks() if begin["ranks"] else None,
        grace_period=begin["grace"],
        reduction_factor=begin["factor"],
        random_seed=begin["seed"],
    )
    trials: dict[int, Trial] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "ask" in request:
            number = request["ask"]
            config = {name: int(place) for name, place in scheduler.suggest().config.items()}
            trials[number] = Trial(number, config, datetime.now())
            scheduler.on_trial_add(trials[number])
            answer = config
        else:
            trial = trials[request.pop("report")]
            is_last = request["epoch"] == begin["epochs"]
            answer = is_last or scheduler.on_trial_result(trial, request) == "CONTINUE"
            if is_last:
                scheduler.on_trial_complete(trial, request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
