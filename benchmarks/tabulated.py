"""Trials without training, with the interface of `hpsearch.trial.TrialRun`: for overhead, scale and tests.

`InstantTrial` does nothing; `SleepingTrial` also waits. Their results follow from the configuration by a fixed rule:
accuracy rises with the kept share and the epochs, energy is the kept share.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from greenprune_core.config import TrialConfig
from search_spaces import SearchSpace

DENSE_ENERGY_J = 1e-6
DENSE_MACS = 1_000_000


@dataclass(frozen=True)
class Report:
    """One point of a learning curve."""

    epoch: int
    phase: str
    val_accuracy: float
    expected_energy_j: float
    expected_macs: float


class InstantTrial:
    """A trial that takes no time."""

    seconds_per_epoch = 0.0

    def __init__(self, config: TrialConfig, folder: Path, *, data_dir: str | None = None, device: str = "cpu") -> None:
        self.config = config
        self.epoch = 0
        self.epochs = config.epochs
        self.folder = folder

    @property
    def is_finished(self) -> bool:
        return self.epoch >= self.epochs

    def advance(self, until_epoch: int) -> Report:
        while self.epoch < min(until_epoch, self.epochs):
            time.sleep(self.seconds_per_epoch)
            self.epoch += 1
        kept = self._kept()
        return Report(self.epoch, "finish", self._accuracy(), kept * DENSE_ENERGY_J, kept * DENSE_MACS)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"config": self.config.to_dict(), "epoch": self.epoch}))

    @classmethod
    def restore(
        cls, path: Path, config: TrialConfig, folder: Path, *, data_dir: str | None = None, device: str = "cpu"
    ) -> Self:
        state = json.loads(path.read_text())
        trial = cls(config, folder, data_dir=data_dir, device=device)
        trial.epoch = state["epoch"]
        return trial

    def finish(self) -> dict[str, Any]:
        kept = self._kept()
        return {
            "val_accuracy": self._accuracy(),
            "energy_j": kept * DENSE_ENERGY_J,
            "dense_energy_j": DENSE_ENERGY_J,
            "energy_source": "model:none",
            "macs": int(kept * DENSE_MACS),
            "dense_macs": DENSE_MACS,
            "epochs": self.epoch,
            "train_energy_j": 1.0,
            "train_seconds": self.epoch * self.seconds_per_epoch,
            "device": "cpu",
        }

    def _kept(self) -> float:
        return self.config.budget.target

    def _accuracy(self) -> float:
        lost = abs(self.config.optimiser.learning_rate - 0.1) + 0.3 * (1.0 - self._kept()) ** 2
        return max(0.0, (0.99 - lost) * (1.0 - 0.5 / (1 + self.epoch)))


class SleepingTrial(InstantTrial):
    """A trial whose epochs take `SLEEP_S` seconds of the environment, or 0.1."""

    seconds_per_epoch = float(os.environ.get("SLEEP_S", "0.1"))


class NoisyTrial(InstantTrial):
    """A trial whose accuracy depends on its seed."""

    def _accuracy(self) -> float:
        return super()._accuracy() - 0.01 * (self.config.seed % 3)

    def finish(self) -> dict[str, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "card.json").write_text(json.dumps({"seed": self.config.seed}))
        return super().finish()


class DoomedTrial(InstantTrial):
    """A trial that raises in its first epoch."""

    def advance(self, until_epoch: int) -> Report:
        raise ValueError("loss is NaN")


class TroubledTrial(InstantTrial):
    """A trial that raises, hangs or ends without an accuracy, each for a quarter of the noises."""

    @property
    def _kind(self) -> int:
        return int(4 * self.config.gates.noise)

    def advance(self, until_epoch: int) -> Report:
        if self._kind == 0:
            raise ValueError("loss is exploded")
        if self._kind == 1:
            time.sleep(600)
        return super().advance(until_epoch)

    def finish(self) -> dict[str, Any]:
        row = super().finish()
        return {**row, "val_accuracy": float("nan")} if self._kind == 2 else row


class MortalTrial(SleepingTrial):
    """A trial that kills its worker once, after the third epoch and with a marker; for three quarters of the noises."""

    def advance(self, until_epoch: int) -> Report:
        report = super().advance(until_epoch)
        marker = self.folder.parent / f"{self.folder.name}.died"
        if self.epoch == 3 and self.config.gates.noise >= 0.25 and not marker.exists():
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.write_text("once")
            os._exit(9)
        return report


class FatalTrial(InstantTrial):
    """A trial that ends its worker each time, as the system does to one that takes all memory; for a third of all."""

    SURVIVES_FROM = 0.34

    def advance(self, until_epoch: int) -> Report:
        if self.config.gates.noise < self.SURVIVES_FROM:
            os._exit(9)
        return super().advance(until_epoch)


def suggest(trial: Any) -> TrialConfig:
    """Draw eight parameters, as a real space would."""
    from greenprune_core.config import BudgetConfig, GateConfig, LossConfig, OptimiserConfig, PhaseConfig

    freeze_at = trial.suggest_float("freeze_at", 0.3, 0.6)
    return TrialConfig(
        epochs=int(os.environ.get("EPOCHS", "9")),
        budget=BudgetConfig(target=trial.suggest_float("target", 0.1, 1.0)),
        gates=GateConfig(noise=trial.suggest_float("noise", 0.0, 1.0)),
        losses=LossConfig(
            polar_weight=trial.suggest_float("polar_weight", 0.1, 1.0),
            budget_weight=trial.suggest_float("budget_weight", 1.0, 30.0, log=True),
        ),
        phases=PhaseConfig(
            freeze_at=freeze_at,
            freeze_latest=max(freeze_at, 0.6),
            ramp_share=trial.suggest_float("ramp_share", 0.2, 1.0),
        ),
        optimiser=OptimiserConfig(
            learning_rate=trial.suggest_float("learning_rate", 0.01, 0.3, log=True),
            weight_decay=trial.suggest_float("weight_decay", 1e-5, 1e-3, log=True),
        ),
    )


SPACE = SearchSpace(
    name="tabulated", suggest=suggest, first_points=({"target": 0.5, "learning_rate": 0.1},), description="no training"
)


if __name__ == "__main__":
    # `hpsearch search` with trials that only sleep: python benchmarks/tabulated.py --trials 12 --name x ...
    import sys

    import click

    from hpsearch.cli import main
    from hpsearch.commands import search

    @click.command("search")
    @search.options
    def command(**given: Any) -> int:
        given["space"] = given["space"] or "tabulated:SPACE"
        return search.execute(given, runner="tabulated:SleepingTrial")

    search.command = command
    sys.exit(main(["search", *sys.argv[1:]]))
