"""Attach gates to a network."""

from collections.abc import Sequence
from typing import Any, Literal, get_type_hints

from torch import Tensor, nn

from greenprune_core.config import GateConfig
from greenprune_core.errors import ConfigError
from greenprune_core.gates.families import gate_maker
from greenprune_core.gates.network import GatedNetwork
from greenprune_core.graph import build_structure
from greenprune_core.typed_values import check_type

_DEFAULTS: dict[str, Any] = {"family": "head", "hidden": 16, "initial_open": 0.9, "noise": 0.3, "floor": 1}


def attach_gates(
    network: nn.Module,
    example_input: Tensor,
    granularity: Literal["channel", "layer", "both"] = "channel",
    ignore: Sequence[str] = (),
    streams: bool = True,
    **gate: Any,
) -> GatedNetwork:
    """Return a gated copy of a network; the given one is left as it was.

    With all gates open the outputs are those of the network. Channels that are coupled (by additions, concatenations,
    grouped and depth-wise convolutions, squeeze-excitation) share one gate; what cannot be gated is left dense and
    listed in `not_gated` with the reason.

    Args:
        network: any torch.nn.Module whose control flow does not depend on the data.
        example_input: a batch of inputs, e.g. torch.zeros(1, 3, 32, 32).
        granularity: "channel" groups, residual branches ("layer"), or "both".
        ignore: layers, or prefixes of their names, to leave dense.
        streams: also gate channel groups coupled through additions (the residual stream); on here, off in a
            `TrialConfig` that says nothing.
        **gate: as in `greenprune_core.config.GateConfig`: family ("head", "free", "hard_concrete"), hidden (units of
            the head), initial_open (probability at the start), noise (scale while training), floor (smallest number
            of open gates per channel group in a consensus).

    Raises:
        UnsupportedNetworkError: the network cannot be traced, or nothing in it can be gated.
        ConfigError: an argument is wrong.
    """
    check_module(network)
    unknown = sorted(set(gate) - set(_DEFAULTS))
    if unknown:
        raise ConfigError(f"a gate's settings are {', '.join(_DEFAULTS)}, but got {unknown[0]!r}; leave it out")
    hints = get_type_hints(GateConfig)
    values = _DEFAULTS | {name: check_type(value, hints[name], name) for name, value in gate.items()}
    if not 0.5 < values["initial_open"] < 1:
        raise ConfigError(f"initial_open lies in (0.5, 1), but got {values['initial_open']}; 0.9 is usual")
    for name, least in (("noise", 0), ("hidden", 1), ("floor", 1)):
        if not values[name] >= least:
            raise ConfigError(f"{name} needs at least {least}, but got {values[name]}; leave it out for the usual one")
    check_type(streams, bool, "streams")
    floor = values.pop("floor")
    make_gate = gate_maker(values.pop("family"), **values)
    structure = build_structure(network, example_input, granularity=granularity, ignore=ignore, streams=streams)
    return GatedNetwork(structure, make_gate, floor=floor)


def check_module(network: nn.Module) -> None:
    """Refuse what is no network.

    Raises:
        ConfigError: it is of another type.
    """
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"a network is a torch.nn.Module, but got {type(network).__name__}; wrap a function in one, or build a "
            "network by its name with greenprune_core.networks.build_network"
        )
