"""Collapse is caught, not suffered: what can go wrong with gates while they are learnt, and what is done about it.

Each check is a pure function from a snapshot of the gates to symptoms; the select phase acts on them. The failures are
those that others met: all gates drift shut together, all stay open and the target is silently missed, a layer empties,
gates saturate where their gradient vanishes (see `docs/method.md`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Name = Literal["emptied_layer", "all_closed", "all_open", "dead_gates", "no_ranking"]

_EMPTY = 0.5
"""A group keeps less than half an open gate per image: most images find it empty."""
_FAR_BELOW = 0.5
"""Kept fraction over target below which the network collapses rather than overshoots."""
_FAR_ABOVE = 0.1
"""Kept fraction above the target at the freeze that is more than the repair is meant for."""
_SATURATED = 0.975
"""Open probability (or its complement) near the logits' clamp."""
_SPREAD = 1e-3
"""Spread of the open probabilities below which their order is noise."""


@dataclass(frozen=True)
class Symptom:
    """One thing that is wrong with the gates."""

    name: Name
    detail: str
    gates: tuple[int, ...]
    """Flat indices of the gates that a counter-measure acts on."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The gates at one step; V gates in all."""

    groups: Mapping[str, slice]
    """Channel groups only: a residual branch may close."""
    decision_mean_V: Tensor
    """Share of the batch's images for which each gate is open."""
    open_average_V: Tensor
    """Moving average of the open probabilities."""
    wanted_V: Tensor
    """Mask that the budget would keep now, bool."""
    kept: float
    """Expected cost over dense cost."""
    target: float
    """Kept fraction asked for now."""


def examine(snapshot: Snapshot) -> list[Symptom]:
    """Return what is wrong with the gates in the middle of the select phase, each with the gates to be revived."""
    symptoms = _emptied_layers(snapshot)
    if snapshot.kept < _FAR_BELOW * snapshot.target:
        closed_V = snapshot.wanted_V & (snapshot.decision_mean_V < 0.5)
        detail = f"kept {snapshot.kept:.3f} of the cost where {snapshot.target:.3f} was asked for"
        symptoms.append(Symptom("all_closed", detail, _indices(closed_V)))
    return symptoms


def dead_gates(snapshot: Snapshot) -> list[Symptom]:
    """Return gates that are saturated on the side where the budget does not want them.

    To be asked after the polariser has had its full weight for a while: a live gate has left that side by then.
    """
    shut_V = snapshot.wanted_V & (snapshot.open_average_V < 1 - _SATURATED)
    stuck_V = ~snapshot.wanted_V & (snapshot.open_average_V > _SATURATED)
    dead = _indices(shut_V | stuck_V)
    if not dead:
        return []
    return [Symptom("dead_gates", f"{len(dead)} gates saturated against the budget", dead)]


def at_freeze(open_average_V: Tensor, kept_before_repair: float, target: float) -> list[Symptom]:
    """Return what is wrong with the consensus when the gates are fixed.

    `all_open` is put right by the repair and recorded; `no_ranking` cannot be: a repair by noise is a random mask.
    """
    symptoms = []
    if kept_before_repair > target + _FAR_ABOVE:
        detail = f"the majority keeps {kept_before_repair:.3f} of the cost where {target:.3f} was asked for"
        symptoms.append(Symptom("all_open", detail, ()))
    spread = float(open_average_V.max() - open_average_V.min())
    if spread < _SPREAD and kept_before_repair > target:
        symptoms.append(Symptom("no_ranking", f"open probabilities differ by {spread:.2g} only", ()))
    return symptoms


def _emptied_layers(snapshot: Snapshot) -> list[Symptom]:
    symptoms = []
    for name, group in snapshot.groups.items():
        n_open = float(snapshot.decision_mean_V[group].sum())
        if n_open < _EMPTY:
            best = group.start + int(snapshot.open_average_V[group].argmax())
            symptoms.append(Symptom("emptied_layer", f"{name} keeps {n_open:.2f} gates per image", (best,)))
    return symptoms


def _indices(mask_V: Tensor) -> tuple[int, ...]:
    return tuple(torch.nonzero(mask_V).flatten().tolist())
