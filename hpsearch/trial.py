"""One trial: train, cut, verify, count, save. A plain function that knows no ray, to be run and debugged alone."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from greenprune_core.config import TrialConfig
from greenprune_core.cost import (
    Cost,
    DeviceProfile,
    Energy,
    ExpectedCost,
    estimate_energy,
    estimate_latency,
    load_profile,
    pricing_profile,
)
from greenprune_core.cost.training import TrainingPart, estimate_training_energy, training_macs
from greenprune_core.data import ImageData
from greenprune_core.one_pass import OnePassResult, advance, finished, start
from greenprune_core.state import TrainingState, example_images
from greenprune_core.subnetwork import check_savable, save_subnetwork


@dataclass(frozen=True, kw_only=True)
class TrialReport:
    """How a trial stands at a rung; what early stopping compares."""

    epoch: int
    """Epochs done."""
    phase: str
    """Phase it is in."""
    val_accuracy: float
    """Validation accuracy after the last epoch, in [0, 1]."""
    expected_energy_j: float
    """Joules of one inference: of the cut network, or before the cut of the gates that the budget would keep now."""
    expected_macs: float
    """The same in multiply-accumulates."""


class TrialRun:
    """A trial under way, to be advanced from rung to rung, saved and restored.

    Args:
        config: everything that decides the trial.
        folder: where its sub-network is written, made if needed.
        network: trained instead of the one that `config` names.
        data: learnt instead of the images that `config` names.
        data_dir: where data sets lie, if not in the usual places.
        device: cpu, cuda, ...

    Raises:
        ConfigError: a setting, the data or the network does not fit.
        UnsupportedNetworkError: the network cannot be gated, or what is left of it could not be saved.
    """

    def __init__(
        self,
        config: TrialConfig,
        folder: Path,
        *,
        network: nn.Module | None = None,
        data: ImageData | None = None,
        data_dir: str | None = None,
        device: str = "cpu",
    ) -> None:
        self.config = config
        self.folder = folder
        self.started_at = datetime.now(UTC)
        self._state = start(config, network, data, data_dir=data_dir, device=device)
        check_savable(self._state.gated)

    @classmethod
    def restore(
        cls, path: Path, config: TrialConfig, folder: Path, *, data_dir: str | None = None, device: str = "cpu"
    ) -> Self:
        """Go on from a checkpoint that `save` has written.

        Raises:
            ConfigError: the file is no checkpoint, or one of another configuration.
        """
        run = cls(config, folder, data_dir=data_dir, device=device)
        run._state.load(path)
        return run

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self._state.step // self._state.steps_per_epoch

    @property
    def epochs(self) -> int:
        """Epochs of the whole trial."""
        return self.config.epochs

    @property
    def is_finished(self) -> bool:
        """Whether the network is trained and cut."""
        return self._state.phase == "done"

    def advance(self, until_epoch: int) -> TrialReport:
        """Train until `until_epoch` epochs are done and report.

        Raises:
            TrainingError: the run cannot go on.
        """
        self._state = advance(self._state, until_epoch)
        return self._report()

    def spent(self) -> dict[str, Any]:
        """Return what the training has spent so far, in columns of the archive; joules by the model."""
        return _spent(self._state, pricing_profile(load_profile(self.config.budget.profile)))

    def save(self, path: Path) -> None:
        """Write a checkpoint (aside, then renamed)."""
        self._state.save(path)

    def finish(self, dense_cost: Cost | None = None) -> dict[str, Any]:
        """Save the sub-network and return the trial's row: the columns of the archive that a trial knows itself.

        Args:
            dense_cost: of the network to compare with, where that is not the one that was gated.
        """
        result = finished(self._state)
        if dense_cost is not None:
            result = replace(result, dense_cost=dense_cost)
        row = describe(result, self._state)
        row |= {"started_at": self.started_at, "finished_at": datetime.now(UTC)}
        save_subnetwork(self.folder, result.network, example_images(self._state.data, "cpu"), _card(row, self._state))
        return row

    def _report(self) -> TrialReport:
        state = self._state
        profile = pricing_profile(load_profile(self.config.budget.profile))
        if state.cost is not None:
            energy, macs = estimate_energy(state.cost, profile).joules, float(state.cost.macs)
        elif state.pressure is not None:
            promise = state.pressure.promise().to(torch.float64)
            energy = float(ExpectedCost(state.gated.structure, "joules", profile)(promise))
            macs = float(ExpectedCost(state.gated.structure, "macs")(promise))
        else:
            energy, macs = estimate_energy(state.dense_cost, profile).joules, float(state.dense_cost.macs)
        return TrialReport(
            epoch=self.epoch,
            phase=state.phase,
            val_accuracy=state.history[-1]["val_accuracy"],
            expected_energy_j=energy,
            expected_macs=macs,
        )


def run_trial(
    config: TrialConfig,
    folder: Path,
    *,
    data_dir: str | None = None,
    device: str = "cpu",
    on_report: Callable[[TrialReport], None] | None = None,
) -> dict[str, Any]:
    """Run one trial from its first to its last epoch and return its row; arguments as for `TrialRun`.

    Equal configurations give bit-identical numbers on a CPU with an equal number of threads.
    """
    run = TrialRun(config, folder, data_dir=data_dir, device=device)
    for epoch in range(1, run.epochs + 1):
        report = run.advance(epoch)
        if on_report is not None:
            on_report(report)
    return run.finish()


def describe(result: OnePassResult, state: TrainingState) -> dict[str, Any]:
    """Return the archive's columns for a finished one-pass run, times and trial id left out."""
    config = result.config
    device_profile = load_profile(config.budget.profile)
    profile = pricing_profile(device_profile)
    energy = estimate_energy(result.cost, profile)
    report = result.freeze_report
    return {
        "config_hash": config.config_hash,
        "seed": config.seed,
        "config": config.to_dict(),
        "val_accuracy": result.val_accuracy,
        "test_accuracy": result.test_accuracy,
        "n_validation": result.n_validation,
        "n_test": result.n_test,
        "dense_macs": result.dense_cost.macs,
        "macs": result.cost.macs,
        "dense_params": result.dense_cost.params,
        "params_kept": result.cost.params,
        "energy_j": energy.joules,
        "dense_energy_j": estimate_energy(result.dense_cost, profile).joules,
        "energy_source": energy.source,
        **_latency(result, device_profile),
        **_spent(state, profile),
        "epochs": config.epochs,
        "device": device_name(state.device),
        "history": result.history,
        "phase_cost": _phase_cost(result, profile),
        "kept_channels": {name: [sum(mask), len(mask)] for name, mask in result.masks.items()},
        "gate_histogram": list(report.open_histogram) if report else None,
        "disagreement": report.disagreement_mean if report else None,
        "flips": report.n_flipped if report else None,
        "details": {
            "verify_difference": result.verify_difference,
            "dense_train_macs": result.dense_train_macs,
            "accuracy_after_cut": state.accuracy_after_cut,
            "freeze": asdict(report) if report else None,
            "symptoms": result.symptoms,
        },
    }


def _latency(result: OnePassResult, profile: DeviceProfile) -> dict[str, Any]:
    """Return the modelled time of a single image, where the profile has timings."""
    if 1 not in profile.batch_sizes:
        return {}
    return {
        "model_latency_s": estimate_latency(result.cost, profile),
        "dense_model_latency_s": estimate_latency(result.dense_cost, profile),
        "model_latency_source": f"model:{profile.name}",
    }


def _spent(state: TrainingState, profile: DeviceProfile) -> dict[str, Any]:
    parts = [part for of_phase in state.training_parts().values() for part in of_phase]
    seconds = sum(spent.seconds for spent in state.spent.values())
    energy = _training_energy(parts, state.config, profile, seconds)
    return {
        "train_seconds": seconds,
        "train_macs": training_macs(parts),
        "train_energy_j": energy.joules,
        "train_energy_source": energy.source,
    }


def _training_energy(
    parts: Iterable[TrainingPart], config: TrialConfig, profile: DeviceProfile, seconds: float
) -> Energy:
    return estimate_training_energy(parts, profile, batch_size=config.optimiser.batch_size, seconds=seconds)


def _phase_cost(result: OnePassResult, profile: DeviceProfile) -> dict[str, dict[str, float]]:
    """Steps, images, seconds, multiply-accumulates and joules of each phase."""
    costs: dict[str, dict[str, float]] = {}
    for phase, spent in result.spent.items():
        parts = result.training_parts[phase]
        joules = _training_energy(parts, result.config, profile, spent.seconds).joules
        costs[phase] = {**asdict(spent), "macs": training_macs(parts), "joules": joules}
    return costs


def device_name(device: str) -> str:
    """Return the processor's or accelerator's name."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return device


def _card(row: dict[str, Any], state: TrainingState) -> dict[str, Any]:
    """Return what the sub-network's card says about task, data and result."""
    data = state.data
    return {
        "trial_id": row["config_hash"],
        "task": "image-classification",
        "data": {"name": data.name, "source": data.source, "input_shape": list(data.input_shape)},
        "classes": list(data.class_names),
        "normalisation": {"mean": data.mean.tolist(), "std": data.std.tolist()},
        "accuracy": {
            "validation": {"value": row["val_accuracy"], "n": row["n_validation"]},
            "test": {"value": row["test_accuracy"], "n": row["n_test"]},
        },
        "energy": {"joules": row["energy_j"], "source": row["energy_source"]},
        "macs": row["macs"],
        "dense": {"macs": row["dense_macs"], "params": row["dense_params"], "joules": row["dense_energy_j"]},
        "configuration": row["config"],
        "provenance": {
            "config_hash": row["config_hash"],
            "seed": row["seed"],
            "device": row["device"],
            "started_at": row["started_at"].isoformat(),
            "finished_at": row["finished_at"].isoformat(),
        },
    }
