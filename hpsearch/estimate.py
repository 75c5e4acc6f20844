"""What a search would cost, and whether its data is there, before anything starts."""

from dataclasses import dataclass

from greenprune_core.config import TrialConfig
from greenprune_core.cost import (
    Cost,
    DeviceProfile,
    count_cost,
    estimate_energy,
    estimate_latency,
    load_profile,
    pricing_profile,
)
from greenprune_core.data import ImageData, load_data
from greenprune_core.networks import build_network
from hpsearch.settings import SearchSettings
from hpsearch.study.draws import first_config
from search_spaces import SearchSpace

TRAINING_PASSES = 3
"""Forward passes that a training step costs: the backward pass counts as two."""


@dataclass(frozen=True, kw_only=True)
class TrialCost:
    """What one trial costs at most: as if nothing were pruned."""

    epochs: int
    n_train: int
    dense_macs: int
    dense_energy_j: float
    train_macs: float
    train_energy_j: float
    energy_source: str


def check_data(space: SearchSpace, settings: SearchSettings) -> ImageData:
    """Load the data of the space's first configuration.

    Raises:
        DataError: it is not there, or damaged.
    """
    return load_data(first_config(space).data, settings.data_dir)


def check_latency(space: SearchSpace, settings: SearchSettings) -> float:
    """Return the modelled seconds of a single image in the network of the space's first configuration.

    Raises:
        ConfigError: the profile does not know the time of an operator of this network; every trial would fail at its
            end.
    """
    config = first_config(space)
    return estimate_latency(_dense_cost(config, load_data(config.data, settings.data_dir)), _profile(config))


def estimate_trial(space: SearchSpace, settings: SearchSettings) -> TrialCost:
    """Return the cost of the space's first configuration, trained without pruning.

    Raises:
        ConfigError: data, network or profile is not there.
    """
    config = first_config(space)
    data = load_data(config.data, settings.data_dir)
    cost = _dense_cost(config, data)
    energy = estimate_energy(cost, pricing_profile(_profile(config)))
    images = TRAINING_PASSES * data.n_train * config.epochs
    return TrialCost(
        epochs=config.epochs,
        n_train=data.n_train,
        dense_macs=cost.macs,
        dense_energy_j=energy.joules,
        train_macs=float(cost.macs * images),
        train_energy_j=energy.joules * images,
        energy_source=energy.source,
    )


def _dense_cost(config: TrialConfig, data: ImageData) -> Cost:
    channels, height, _ = data.input_shape
    network = build_network(config.network, n_classes=data.n_classes, in_channels=channels, image_size=height)
    (example, _) = next(iter(data.plain_batches("validation", 1, limit=1)))
    return count_cost(network, example)


def _profile(config: TrialConfig) -> DeviceProfile:
    return load_profile(config.budget.profile)
