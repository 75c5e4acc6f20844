"""Controls: what a front has to beat. The dense network and uniformly narrower ones, trained by the front's recipes.

A control learns the same images with the optimiser, the epochs and the seed of a member of the front; no gate decides
in it, and the learning rate that was held for the gates falls from the start. Its rows lie in `controls/`, apart from
the searched trials: no sampler, no front and no pick ever sees them.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from greenprune_core.config import DataConfig, TrialConfig
from greenprune_core.cost import Cost, ExpectedCost, count_cost, load_profile, pricing_profile
from greenprune_core.cost.expected import Unit
from greenprune_core.data import ImageData, load_data
from greenprune_core.errors import ConfigError
from greenprune_core.gates import GatedNetwork, attach_gates
from greenprune_core.networks import build_network
from greenprune_core.uniform import cut_fresh, nearest_share, uniform_masks
from hpsearch import provenance
from hpsearch.archive import CONTROLS_FOLDER, read_archive, rows, write_trial
from hpsearch.front import Row
from hpsearch.objectives import SECOND, Objective
from hpsearch.search_run import SearchRun
from hpsearch.trial import TrialRun

SUBNETWORKS = "subnetworks"
UNITS: dict[str, Unit] = {"energy": "joules", "macs": "macs", "params": "params"}
"""Second objective of a search -> unit of the expected cost."""


@dataclass(frozen=True)
class Control:
    """One network to train for comparison."""

    kind: str
    """dense or uniform_width."""
    member: Row
    """Member of the front whose recipe it takes, and whose cost a narrower network comes nearest to."""
    config: TrialConfig
    """The recipe, with everything kept and nothing to wait for."""
    share: float
    """Share of the channels of every layer; 1 for the dense network."""
    nth_seed: int = 0
    """How many seeds behind the recipe's its own lies."""

    @property
    def configuration(self) -> str:
        """Name that it shares with its other seeds."""
        name = "dense" if self.kind == "dense" else f"uniform-{self.share:.3f}"
        return f"{name}-{self.config.config_hash[:8]}"

    @property
    def trial_id(self) -> str:
        """Name of its row and of its folder."""
        return f"{self.configuration}-seed{self.seed}" if self.nth_seed else self.configuration

    @property
    def seed(self) -> int:
        """Seed that it is trained with."""
        return self.config.seed + self.nth_seed


class Place:
    """Where controls are trained: a device, and the images on it, read once.

    Args:
        device: cpu, cuda, ...
        data_dir: where data sets lie, if not in the usual places.
    """

    def __init__(self, device: str = "cpu", data_dir: str | None = None) -> None:
        self.device = device
        self._data_dir = data_dir
        self._loaded: dict[DataConfig, ImageData] = {}

    def images(self, config: DataConfig) -> ImageData:
        """Return a data set."""
        if config not in self._loaded:
            self._loaded[config] = load_data(config, data_dir=self._data_dir, device=self.device)
        return self._loaded[config]


def plan_controls(
    run: SearchRun, place: Place, *, n_uniform: int | None = None, n_seeds: int = 1
) -> tuple[Control, ...]:
    """Say what to train: the dense network, then narrower ones at the costs of the front, the dearest first.

    The dense network takes the recipe of the most accurate member. Members whose nearest narrower network is the same
    share one, and none is narrower than the dense one by nothing.

    Args:
        run: an opened run with a front.
        place: where data lie.
        n_uniform: narrower networks, at members spread evenly over the front; all members if not given.
        n_seeds: how often each is trained, with the recipe's seed and those after it.

    Raises:
        ConfigError: the run has no front, or its trials have no configuration.
    """
    members = run.compared.members
    if not members:
        raise ConfigError(
            f"controls are trained at the costs of a front, but {run.storage} has none; let a trial finish first"
        )
    best = max(members, key=lambda row: (row["val_accuracy"], -row[run.objectives[1].column]))
    single = [Control("dense", best, _recipe(best), 1.0)]
    shapes = {}
    for member in _spread(members, len(members) if n_uniform is None else n_uniform):
        recipe = _recipe(member)
        share = _share(recipe, member, run.objectives[1], place)
        if share < 1:
            shapes[recipe.network, share] = Control("uniform_width", member, recipe, share)
    single += sorted(shapes.values(), key=lambda control: -control.share)
    return tuple(replace(control, nth_seed=nth) for control in single for nth in range(n_seeds))


def train_controls(
    run: SearchRun, controls: Sequence[Control], place: Place, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Train what has no row yet, write each row when it is done, and return the rows one by one.

    Raises:
        GreenpruneError: a control cannot be trained; the rows before it stay.
    """
    known = {row["trial_id"]: row for row in rows(read_archive(run.storage, CONTROLS_FOLDER).table)}
    for number, control in enumerate(controls, start=1):
        if control.trial_id in known:
            say(f"{number}/{len(controls)} {control.trial_id}: trained before")
            yield known[control.trial_id]
            continue
        say(f"{number}/{len(controls)} {control.trial_id}: {control.config.epochs} epochs")
        with TemporaryDirectory(prefix="greenprune-") as aside:
            local = run.storage.local
            folder = (Path(aside) if local is None else local / SUBNETWORKS) / control.trial_id
            row = train_control(control, folder, place)
            if local is None:
                run.storage.put_folder(folder, f"{SUBNETWORKS}/{control.trial_id}")
        write_trial(run.storage, row, CONTROLS_FOLDER)
        yield row


def train_control(control: Control, folder: Path, place: Place) -> dict[str, Any]:
    """Train one control as any other trial, with its sub-network saved in `folder`; return its row."""
    data = place.images(control.config.data)
    config = replace(control.config, seed=control.seed)
    network, dense_cost, kept = _build(config, control, data)
    trial = TrialRun(config, folder, network=network, data=data, device=place.device)
    trial.advance(trial.epochs)
    row = trial.finish(dense_cost)
    details = {**row["details"], "recipe_of": control.member["trial_id"], "channel_share": control.share}
    return row | {
        "trial_id": control.trial_id,
        "state": "complete",
        "control": control.kind,
        "config_hash": control.configuration,
        "kept_channels": kept,
        "details": details,
        "node": os.uname().nodename,
        "version": provenance.version(),
    }


def _recipe(member: Row) -> TrialConfig:
    """Return a member's configuration with nothing pruned."""
    if not member.get("config"):
        raise ConfigError(
            f"a control takes the configuration of a trial, but that of {member['trial_id']} is not recorded; "
            "run the search again"
        )
    config = TrialConfig.from_dict(member["config"])
    # the course of the learning rate stays: held, then falling, it is the better one for networks without gates too
    return replace(config, budget=replace(config.budget, target=1.0))


def _spread(members: Sequence[Row], n: int) -> list[Row]:
    """Choose n members evenly from the cheapest to the dearest."""
    if n >= len(members):
        return list(members)
    if n < 2:
        return list(members[:n])
    return [members[round(i * (len(members) - 1) / (n - 1))] for i in range(n)]


def _share(recipe: TrialConfig, member: Row, objective: Objective, place: Place) -> float:
    """Find the share of channels at which the narrower network costs what the member does."""
    if objective.name == "latency":
        objective = SECOND["macs"]  # time is no sum of products of gates: the control has the member's arithmetic
    dense = member[objective.dense_column or ""]
    profile = pricing_profile(load_profile(recipe.budget.profile)) if objective.name == "energy" else None
    data = place.images(recipe.data)
    gated = _gated(_dense_network(recipe, data), data)
    cost = ExpectedCost(gated.structure, UNITS[objective.name], profile)
    return nearest_share(gated, cost, member[objective.column] / dense)[0]


def _build(config: TrialConfig, control: Control, data: ImageData) -> tuple[nn.Module, Cost, dict[str, list[int]]]:
    """Return the network to train, the cost of the dense one, and per layer the channels of both."""
    dense = _dense_network(config, data)
    dense_cost = count_cost(dense, _example(data))
    gated = _gated(dense, data)
    masks = uniform_masks(gated, control.share)
    kept = {name: [int(mask.sum()), len(mask)] for name, mask in masks.items()}
    network = dense if control.kind == "dense" else cut_fresh(gated, masks, config.seed)
    return network, dense_cost, kept


def _dense_network(config: TrialConfig, data: ImageData) -> nn.Module:
    torch.manual_seed(config.seed)
    channels, _, side = data.input_shape
    return build_network(config.network, n_classes=data.n_classes, in_channels=channels, image_size=side)


def _gated(network: nn.Module, data: ImageData) -> GatedNetwork:
    """Attach channel gates everywhere, the residual stream too: a narrower network is narrower in every layer."""
    return attach_gates(network, _example(data), granularity="channel", streams=True)


def _example(data: ImageData) -> torch.Tensor:
    return torch.zeros(1, *data.input_shape)
