"""The training state: everything that the next step depends on, saved and restored whole.

Randomness needs no saving: each step draws from generators seeded by (seed, epoch, step), so a trial can stop and go
on anywhere, also on another machine.
"""

import io
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from greenprune_core.artefact import write_aside, writing_into
from greenprune_core.config import ExecutionConfig, TrialConfig
from greenprune_core.cost import Cost, count_cost
from greenprune_core.cost.training import TrainingPart
from greenprune_core.data import ImageData
from greenprune_core.errors import ConfigError
from greenprune_core.extract import extract
from greenprune_core.gates import GatedNetwork, attach_gates
from greenprune_core.graph.trace import copy_network
from greenprune_core.network_checks import check_outputs, check_same, check_same_data, check_trainable, facts_of
from greenprune_core.optimisation import build_optimiser
from greenprune_core.pressure import Pressure
from greenprune_core.records import FreezeReport, PhaseSpent
from greenprune_core.rest import CompiledRest, CutRest, Rest, RestSpent
from greenprune_core.surroundings import own_settings

LEAST_LOOKS = 64
"""Looks of the gates in a select phase, where it has so many steps: gates learn nothing at rest."""

_AGREEMENTS = 32
"""Masks of the rests in one select phase, at most: to cut a network takes about as long as a tenth of a step."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)
Phase = Literal["warm_up", "select", "freeze", "shrink", "finish", "done"]

_FORMAT = 2


@dataclass
class TrainingState:
    """One network on its way through the phases."""

    config: TrialConfig
    data: ImageData
    device: str
    network: nn.Module
    """The gated network until the cut, the plain small one after it."""
    optimiser: Optimizer
    pressure: Pressure | None
    """None where nothing is pressed: a target of 1, and after the cut."""
    scaler: torch.amp.GradScaler
    run: Callable[[Tensor], Tensor]
    """The network as training steps call it: itself, or compiled."""
    dense_cost: Cost
    gated_cost: Cost
    """Of the gated network with its gates deciding."""
    phase: Phase = "warm_up"
    step: int = 0
    n_waits: int = 0
    freeze_at_step: int = 0
    """Step of the next attempt to fix the gates."""
    masks: dict[str, Tensor] | None = None
    cost: Cost | None = None
    """Cost of the cut network; None before the cut."""
    freeze_report: FreezeReport | None = None
    verify_difference: float | None = None
    accuracy_after_cut: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    spent: dict[str, PhaseSpent] = field(default_factory=dict)
    rests: list[RestSpent] = field(default_factory=list)
    """What was trained while the gates rested, one entry per mask that they agreed on; part of the select phase."""
    symptoms: list[dict[str, Any]] = field(default_factory=list)
    """Collapses that were met on the way: step, name, detail."""
    epoch_sums: dict[str, Any] = field(default_factory=dict)
    """Sums over the steps of the epoch under way, floats or scalars on the device: losses and kept fraction."""
    _rest: Rest | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Training steps of one epoch."""
        return self.data.n_steps(self.config.optimiser.batch_size)

    @property
    def n_steps(self) -> int:
        """Training steps of the whole run."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return self.step / self.n_steps

    @property
    def look_every(self) -> int:
        """Steps of the select phase from one look of the gates to the next."""
        return look_every(self.config, self.data)

    @property
    def look(self) -> int:
        """Number of the gates' look at or before this step."""
        return self.step // self.look_every

    @property
    def looks(self) -> bool:
        """Whether the gates look at this step's images; else they are not in play, or rest."""
        return self.phase == "select" and self.step % self.look_every == 0

    def is_look_due(self, period: int) -> bool:
        """Whether this step is a look at which something happens that is due every `period` steps."""
        return self.looks and self.look % max(1, period // self.look_every) == 0

    @property
    def looks_per_agreement(self) -> int:
        """Looks from one mask of the rests to the next: each has a network to be cut."""
        return max(1, math.ceil(n_select_steps(self.config, self.data) / self.look_every / _AGREEMENTS))

    def rest(self, images: Tensor) -> Tensor:
        """Return the logits of a batch while the gates rest, and account for it."""
        assert self.pressure is not None
        agreed_V = self.pressure.agreed_V
        if self._rest is None or not torch.equal(self._rest.kept_V, agreed_V):
            self._rest = self._rest_under(agreed_V)
            if not self.rests or not torch.equal(self.rests[-1].kept_V, agreed_V):
                self.rests.append(RestSpent(kept_V=agreed_V, cost=self._rest.cost))
        self.rests[-1].n_trained += len(images)
        return self._rest(images)

    def _rest_under(self, kept_V: Tensor) -> Rest:
        if self.config.execution.compile:
            return CompiledRest(self.gated, kept_V, self.run, self.dense_cost)
        return CutRest(self.gated, kept_V, example_images(self.data, self.device))

    @property
    def gated(self) -> GatedNetwork:
        """The gated network; only before the cut."""
        assert isinstance(self.network, GatedNetwork), "the network is cut already"
        return self.network

    @property
    def is_cut(self) -> bool:
        """Whether the network is the plain small one."""
        return self.cost is not None

    def training_parts(self) -> dict[str, list[TrainingPart]]:
        """Return by phase what went through which network: what macs and joules of training are reckoned from."""
        costs = {"warm_up": self.dense_cost, "select": self.gated_cost, "freeze": self.gated_cost}
        parts = {
            phase: [
                TrainingPart(
                    cost=costs.get(phase, self.cost or self.dense_cost),
                    n_trained=spent.n_trained - (self._n_rested if phase == "select" else 0),
                    n_passed=spent.n_passed,
                )
            ]
            for phase, spent in self.spent.items()
        }
        if self.rests:
            parts["select"] += [TrainingPart(cost=rest.cost, n_trained=rest.n_trained) for rest in self.rests]
        return parts

    @property
    def _n_rested(self) -> int:
        return sum(rest.n_trained for rest in self.rests)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole state to one file (aside, then renamed), loadable without unpickling code.

        Raises:
            ConfigError: the folder is not there or cannot be written to, or the disk is full; nothing is left behind.
        """
        content = io.BytesIO()
        torch.save(self._to_plain(), content)
        with writing_into(Path(path).parent):
            write_aside(Path(path), content.getvalue())

    @own_settings()
    def load(self, path: str | os.PathLike[str]) -> None:
        """Take over a saved state; `self` is a fresh one of the same configuration and data.

        Raises:
            ConfigError: the file is no checkpoint of this format, or of another configuration, network or images.
        """
        saved = _read(path, self.config)
        try:
            self._from_plain(saved)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise _damaged(path, error) from error

    def _to_plain(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "config_hash": self.config.config_hash,
            "network": self.network.state_dict(),
            "masks": self.masks,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "pressure": self.pressure.state_dict() if self.pressure else None,
            "rests": [(rest.kept_V, rest.n_trained) for rest in self.rests],
            "json": json.dumps(
                {
                    "phase": self.phase,
                    "step": self.step,
                    "n_waits": self.n_waits,
                    "freeze_at_step": self.freeze_at_step,
                    "is_cut": self.is_cut,
                    "freeze_report": asdict(self.freeze_report) if self.freeze_report else None,
                    "verify_difference": self.verify_difference,
                    "accuracy_after_cut": self.accuracy_after_cut,
                    "history": self.history,
                    "symptoms": self.symptoms,
                    "spent": {name: asdict(cost) for name, cost in self.spent.items()},
                    "epoch_sums": {name: float(total) for name, total in self.epoch_sums.items()},
                    "data": facts_of(self.data),
                }
            ),
        }

    def _from_plain(self, saved: dict[str, Any]) -> None:
        plain = json.loads(saved["json"])
        check_same_data(self.data, plain.get("data", {}))  # older checkpoints do not tell
        if plain["is_cut"]:
            check_same(self.gated.masks, saved["masks"])
        else:
            check_same(self.network.state_dict(), saved["network"])
        for kept_V, n_trained in saved["rests"]:
            cost = self._rest_under(kept_V).cost
            self.rests.append(RestSpent(kept_V=kept_V, cost=cost, n_trained=n_trained))
        self.masks = saved["masks"]
        if self.masks is not None:
            self.gated.freeze(self.masks)
        elif plain["phase"] in ("select", "freeze") and self.pressure is not None:
            self.gated.release_gates()
        if plain["is_cut"]:
            self.become_cut(extract(self.gated))
            check_same(self.network.state_dict(), saved["network"])
        self.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.scaler.load_state_dict(saved["scaler"])
        if self.pressure and saved["pressure"]:
            self.pressure.load_state_dict(saved["pressure"])
        for name in ("phase", "step", "n_waits", "freeze_at_step", "verify_difference", "accuracy_after_cut"):
            setattr(self, name, plain[name])
        self.history, self.epoch_sums, self.symptoms = plain["history"], plain["epoch_sums"], plain["symptoms"]
        self.spent = {name: PhaseSpent(**cost) for name, cost in plain["spent"].items()}
        report = plain["freeze_report"]
        if report:
            self.freeze_report = FreezeReport(**{**report, "open_histogram": tuple(report["open_histogram"])})

    def become_cut(self, static: nn.Module) -> None:
        """Put the cut network in the gated one's place, with a fresh optimiser."""
        plain = static.to(self.device).to(memory_format=torch.contiguous_format)
        # all costs are of the plain layout: operators that know no other copy what they read
        self.cost = count_cost(plain, example_images(self.data, self.device))
        self.network = laid_out(plain, self.config.execution)
        self.run = compiled(self.network, self.config.execution)
        self.optimiser = build_optimiser(self.config.optimiser, self.network, [], 1.0)
        self.pressure = None
        self._rest = None


def begin(config: TrialConfig, network: nn.Module, data: ImageData, device: str) -> TrainingState:
    """Attach gates to a copy of `network` and return the state before the first step.

    Raises:
        UnsupportedNetworkError: nothing in the network can be gated, or it is no classifier of these images.
        ConfigError: the network cannot be trained, or the budget leaves no room for the floors.
    """
    check_trainable(network, data)
    _check_select(config, data)
    if config.execution.compile:
        # all gated networks share their code, of which a process keeps eight versions: the ninth, a few trials on,
        # would run uncompiled, at another speed and with other last digits
        torch.compiler.reset()
    # .to() would move the caller's own
    network = copy_network(network).to(device).to(memory_format=torch.contiguous_format)
    example = example_images(data, device)
    gates = config.gates
    gated = attach_gates(
        network,
        example,
        gates.granularity,
        streams=gates.streams,
        family=gates.family,
        hidden=gates.hidden,
        initial_open=gates.initial_open,
        noise=gates.noise,
        floor=gates.floor,
    )
    check_outputs(gated, data)
    dense_cost = count_cost(network, example)
    is_pressed = config.budget.target < 1
    gated.release_gates()
    gated_cost = count_cost(gated, example) if is_pressed else dense_cost
    gated.open_gates()
    every = look_every(config, data)
    pressure = Pressure(config, gated, device, every) if is_pressed else None
    gated = laid_out(gated, config.execution)  # after costs were counted
    state = TrainingState(
        config=config,
        data=data,
        device=device,
        network=gated,
        optimiser=build_optimiser(
            config.optimiser, gated, list(gated.gate_parameters()), gates.learning_rate_factor * every
        ),
        pressure=pressure,
        scaler=torch.amp.GradScaler(device, enabled=config.execution.precision == "float16"),
        run=compiled(gated, config.execution),
        dense_cost=dense_cost,
        gated_cost=gated_cost,
    )
    state.freeze_at_step = round(config.phases.freeze_at * state.n_steps)
    return state


def _check_select(config: TrialConfig, data: ImageData) -> None:
    n_steps = config.epochs * data.n_steps(config.optimiser.batch_size)
    if config.budget.target < 1 and n_select_steps(config, data) < 1:
        raise ConfigError(
            f"gates learn between warm_up and freeze_at, but of the {n_steps} steps of the run none lies between "
            f"{config.phases.warm_up} and {config.phases.freeze_at}; train for more epochs, with smaller batches, or "
            "freeze later"
        )


def n_select_steps(config: TrialConfig, data: ImageData) -> int:
    """Return the steps of the select phase if the freeze does not wait."""
    n_steps = config.epochs * data.n_steps(config.optimiser.batch_size)
    return round(config.phases.freeze_at * n_steps) - round(config.phases.warm_up * n_steps)


def look_every(config: TrialConfig, data: ImageData) -> int:
    """Return from how many steps of the select phase one is a look of the gates.

    Fewer where the phase is short. Branch gates look at every step: a branch that is closed in rests learns nothing
    there, so that the first to close, by chance, stay closed.
    """
    if config.gates.granularity != "channel":
        return 1
    return max(1, min(config.gates.look_every, n_select_steps(config, data) // LEAST_LOOKS))


def laid_out(network: ModuleT, execution: ExecutionConfig) -> ModuleT:
    """Return the network with its weights in the memory format that is asked for."""
    return network.to(memory_format=torch.channels_last) if execution.channels_last else network


def compiled(network: nn.Module, execution: ExecutionConfig) -> Callable[[Tensor], Tensor]:
    """Return the network, compiled where that is asked for; its parameters and names stay its own."""
    return torch.compile(network) if execution.compile else network


def example_images(data: ImageData, device: str) -> Tensor:
    """Return one blank image, `[1, C, H, W]`, for tracing and counting."""
    return torch.zeros(1, *data.input_shape, device=device)


def training_batches(state: TrainingState) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the rest of the epoch's batches from the present step on."""
    epoch, first_step = divmod(state.step, state.steps_per_epoch)
    return state.data.train_batches(
        state.config.optimiser.batch_size, seed=state.config.seed, epoch=epoch, first_step=first_step
    )


def _read(path: str | os.PathLike[str], config: TrialConfig) -> dict[str, Any]:
    content = io.BytesIO(Path(path).read_bytes())  # what the disk refuses is no damage, but torch tells of both alike
    try:
        saved = torch.load(content, map_location="cpu", weights_only=True)
        found = (saved["format"], saved["config_hash"])
    except Exception as error:  # torch names no class for a file it cannot read
        raise _damaged(path, error) from error
    if found != (_FORMAT, config.config_hash):
        raise ConfigError(
            f"a checkpoint must be of the same configuration and format, but {path} holds {found} and this trial is "
            f"{(_FORMAT, config.config_hash)}; start anew or use its own configuration"
        )
    result: dict[str, Any] = saved
    return result


def _damaged(path: str | os.PathLike[str], error: Exception) -> ConfigError:
    # torch's text is many lines that advise to run what the file holds; it stays in the traceback
    return ConfigError(
        f"a checkpoint is a file written by this project, but got {path}, which does not read as one "
        f"({type(error).__name__}); start anew"
    )
