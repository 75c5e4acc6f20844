"""The optimiser of the one pass: what decays and what does not, its rate, and its way through the cut."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from greenprune_core.config import OptimiserConfig
from greenprune_core.errors import ConfigError

REFERENCE_BATCH = 128
"""Batch size for which a configuration names its learning rate."""

_BY_NAME: dict[str, Any] = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
}
_UNFIT = {
    "lbfgs": "evaluates a batch several times in one step and knows no parameter groups",
    "muon": "updates matrices only, and a network has biases and convolutions",
    "sparseadam": "takes sparse gradients only",
}


def build_optimiser(
    config: OptimiserConfig, network: nn.Module, gate_parameters: list[nn.Parameter], gate_factor: float
) -> Optimizer:
    """Build the optimiser with three groups: decaying weights; norms and biases; gates (at `gate_factor` the rate).

    Vectors (biases, scales of norms) and gates have no weight decay: decay on a gate is a hidden wish to close it.

    Raises:
        ConfigError: torch.optim has no such optimiser, or it does not take these settings.
    """
    kind = _BY_NAME.get(config.name)
    if kind is None or config.name in _UNFIT:
        why = f", which {_UNFIT[config.name]}" if config.name in _UNFIT else ""
        known = ", ".join(name for name in _BY_NAME if name not in _UNFIT)
        raise ConfigError(
            f"an optimiser is one of torch.optim in lower case, but got {config.name!r}{why}; one of {known}"
        )
    gates = {id(parameter) for parameter in gate_parameters}
    weights = [
        parameter for parameter in network.parameters() if id(parameter) not in gates and parameter.requires_grad
    ]
    norms = [module for module in network.modules() if isinstance(module, nn.LayerNorm | nn.RMSNorm)]
    scales = {id(scale) for norm in norms for scale in norm.parameters()}  # over several axes they are no vectors
    decaying = [weight for weight in weights if weight.ndim > 1 and id(weight) not in scales]
    plain = [weight for weight in weights if weight.ndim <= 1 or id(weight) in scales]
    groups = [
        {"params": decaying, "weight_decay": config.weight_decay, "rate_factor": 1.0},
        {"params": plain, "weight_decay": 0.0, "rate_factor": 1.0},
        {"params": gate_parameters, "weight_decay": 0.0, "rate_factor": gate_factor},
    ]
    settings: dict[str, Any] = (
        {"momentum": config.momentum, "nesterov": config.momentum > 0} if config.name == "sgd" else {}
    )
    try:
        optimiser: Optimizer = kind([group for group in groups if group["params"]], lr=config.learning_rate, **settings)
        return optimiser
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the optimiser must take parameter groups, lr and weight_decay, but got {config.name!r} ({error}); use sgd"
        ) from error


def set_learning_rate(optimiser: Optimizer, config: OptimiserConfig, factor: float) -> float:
    """Set each group's rate for this step and return that of the weights.

    The rate scales linearly with the batch size (Goyal 2017, arXiv 1706.02677), so that it keeps its meaning.

    Args:
        optimiser: changed in place.
        config: holds the peak rate and the batch size.
        factor: share of the peak rate, from the schedule.
    """
    rate = config.learning_rate * factor * config.batch_size / REFERENCE_BATCH
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate_factor"]
    return rate


def carry_over(
    old: Optimizer,
    old_names: Mapping[Tensor, str],
    new: Optimizer,
    new_parameters: Mapping[str, nn.Parameter],
    slice_tensors: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> None:
    """Give `new` the state of `old` for every parameter that lives on, cut as the parameters were cut.

    Args:
        old: the optimiser of the uncut network.
        old_names: name of each of its parameters.
        new: the fresh optimiser of the cut network; changed in place.
        new_parameters: parameters of the cut network by name.
        slice_tensors: cuts tensors shaped like the old parameters (or without axes), given by their names, to tensors
            by the names of the new ones.
    """
    by_key: dict[str, dict[str, Tensor]] = {}
    for parameter, values in old.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                by_key.setdefault(key, {})[old_names[parameter]] = value
    for key, tensors in by_key.items():
        for name, value in slice_tensors(tensors).items():
            parameter = new_parameters[name]
            if value.shape == parameter.shape:  # optimisers take all at once only where both lie alike in memory
                value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            new.state[parameter][key] = value
