"""The pressure on the gates in the select phase: the budget with its dual ascent, and the polariser.

It holds what the two remember between steps: the budget's multiplier and the moving average of the open probabilities.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from greenprune_core.config import BudgetConfig, GateConfig, TrialConfig
from greenprune_core.cost import ExpectedCost, LargestShare, load_profile, pricing_profile
from greenprune_core.gates import GatedNetwork
from greenprune_core.health import Snapshot, Symptom, dead_gates, examine
from greenprune_core.losses import (
    ascend_multiplier,
    budget_loss,
    polar_half_loss,
    polar_variance_loss,
    polar_watershed_loss,
)
from greenprune_core.schedules import kept_fraction, noise_scale, polar_strength
from greenprune_core.selection import Ranking, Selection

_AVERAGING = 0.95
"""Weight of the past in the moving average of open probabilities: about 20 steps of memory."""

_ROUNDING = 1e-9

_RANKING_PERIOD = 4
"""Steps between two looks at which gates the budget would keep; the average moves slower than that."""


@dataclass(frozen=True)
class Terms:
    """The gates' loss terms at one step, differentiable scalars, and what they were made of."""

    budget: Tensor
    polar: Tensor
    kept: Tensor
    """Expected cost over dense cost, detached."""
    target: float
    """Kept fraction asked for at this step."""


class Pressure:
    """Budget and polariser on one gated network.

    Args:
        config: losses, phases, budget and gates are read.
        gated: the network whose gates are pressed.
        device: where the network's gates live.
        look_every: steps from one look of the gates to the next.

    Raises:
        ConfigError: the floor of all groups costs more than the budget.
    """

    def __init__(self, config: TrialConfig, gated: GatedNetwork, device: str, look_every: int = 1) -> None:
        self._losses = config.losses
        self._target = kept_fraction(config.phases, config.budget.target)
        self._polar_strength = polar_strength(config.phases)
        self._noise = noise_scale(config.phases, config.gates.noise, config.gates.noise_anneal)
        self._cost = _budgeted_cost(gated, config.budget).to(device)
        self._cost_on_cpu = _budgeted_cost(gated, config.budget)
        floors = [_floor(gated, name, config.gates, config.budget.target) for name in gated.groups]
        slices = list(gated.group_slices.values())
        self._ranking = Ranking(slices, floors, self._cost_on_cpu, config.gates.round_to)
        phases = config.phases
        # halfway between the polariser's full weight and the freeze
        self._settled = phases.freeze_at - 0.5 * (1 - phases.polar_delay - phases.polar_ramp) * (
            phases.freeze_at - phases.warm_up
        )
        self._final_target = config.budget.target
        self._kept_V = torch.ones(gated.n_gates, dtype=torch.bool, device=device)
        # one look stands for all the steps until the next
        self._averaging = _AVERAGING**look_every
        self._dual_step = config.losses.dual_step * look_every
        self._ranking_period = max(1, _RANKING_PERIOD // look_every)
        self.agreed_V = torch.ones(gated.n_gates, dtype=torch.bool)
        self.multiplier = torch.zeros((), device=device)
        self.open_average_V = torch.full((gated.n_gates,), config.gates.initial_open, device=device)
        self.promise()  # a target that the floors alone exceed is refused here, not after the warm-up

    def noise(self, progress: float) -> float:
        """Return the scale of the gates' noise at this progress."""
        return self._noise(progress)

    def target(self, progress: float) -> float:
        """Return the kept fraction asked for at this progress."""
        return self._target(progress)

    def terms(self, gated: GatedNetwork, progress: float, look: int) -> Terms:
        """Return the loss terms after a dynamic forward pass, and let the memory follow.

        Args:
            gated: has just seen a batch in dynamic mode.
            progress: of the whole run, in [0, 1].
            look: number of this look; the ranking is renewed every few.
        """
        target = self._target(progress)
        kept = self._cost(gated.decision_mean) / self._cost.dense
        budget = self._losses.budget_weight * budget_loss(kept, target) + self.multiplier * kept
        with torch.no_grad():
            self.multiplier = ascend_multiplier(self.multiplier, kept.detach(), target, self._dual_step)
            self.open_average_V = torch.lerp(gated.open_probability.detach(), self.open_average_V, self._averaging)
        weight = self._losses.polar_weight * self._polar_strength(progress)
        polar = weight * self._polar(gated, target, look) if weight > 0 else torch.zeros_like(budget)
        return Terms(budget=budget, polar=polar, kept=kept.detach().double(), target=target)

    def care(self, gated: GatedNetwork, terms: Terms, progress: float) -> list[Symptom]:
        """Look for a collapse after a dynamic forward pass, revive the gates that it took, and tell.

        Args:
            gated: changed in place where there are symptoms.
            terms: of this step.
            progress: of the whole run; saturation counts once the polariser has had its full weight.
        """
        kinds = gated.structure.kinds
        snapshot = Snapshot(
            groups={name: place for name, place in gated.group_slices.items() if kinds[name] != "branch"},
            decision_mean_V=gated.decision_mean.detach().cpu(),
            open_average_V=self.open_average_V.cpu(),
            wanted_V=self._ranking.keep_best(self.open_average_V, terms.target * self._cost_on_cpu.dense),
            kept=float(terms.kept),
            target=terms.target,
        )
        symptoms = examine(snapshot)
        if progress > self._settled:
            symptoms += dead_gates(snapshot)
        gated.revive([gate for symptom in symptoms for gate in symptom.gates])
        return symptoms

    def agree(self) -> None:
        """Take what the gates agree on now as the mask of the rests to come."""
        self.agreed_V = self._ranking.majority(self.open_average_V)

    def promise(self) -> Tensor:
        """Return the mask (bool, V, on the CPU) that freezing now under the final target would keep."""
        return self._ranking.keep_best(self.open_average_V, self._final_target * self._cost_on_cpu.dense)

    def settle(self, open_fraction_V: Tensor) -> Selection:
        """Return the consensus of the images, repaired to lie at or just under the final target."""
        limit = self._final_target * self._cost_on_cpu.dense
        return self._ranking.repair(open_fraction_V, self.open_average_V, limit)

    def kept_fraction(self, mask_V: Tensor) -> float:
        """Return what these gates cost over what the dense network costs, in the budget's unit."""
        return float(self._cost_on_cpu(mask_V.to("cpu", torch.float64))) / self._cost_on_cpu.dense

    def state_dict(self) -> dict[str, Tensor]:
        """Return the memory, to be saved."""
        return {
            "multiplier": self.multiplier,
            "open_average_V": self.open_average_V,
            "kept_V": self._kept_V,
            "agreed_V": self.agreed_V,
        }

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Take over a saved memory."""
        device = self.multiplier.device
        self.multiplier = saved["multiplier"].to(device)
        self.open_average_V = saved["open_average_V"].to(device)
        self._kept_V = saved["kept_V"].to(device)
        self.agreed_V = saved["agreed_V"]

    def _polar(self, gated: GatedNetwork, target: float, look: int) -> Tensor:
        form = self._losses.polar_form
        if form == "half":
            return polar_half_loss(gated.decision_mean)
        if form == "variance":
            return polar_variance_loss(gated.probabilities)
        if form == "watershed":
            if look % self._ranking_period == 0:
                kept_V = self._ranking.keep_best(self.open_average_V, target * self._cost_on_cpu.dense)
                self._kept_V = kept_V.to(self.multiplier.device)
            return polar_watershed_loss(gated.open_probability, self._kept_V)
        return torch.zeros((), device=self.multiplier.device)


def _budgeted_cost(gated: GatedNetwork, budget: BudgetConfig) -> ExpectedCost | LargestShare:
    if budget.unit == "macs_and_params":
        return LargestShare([ExpectedCost(gated.structure, "macs"), ExpectedCost(gated.structure, "params")])
    profile = pricing_profile(load_profile(budget.profile)) if budget.unit == "joules" else None
    return ExpectedCost(gated.structure, budget.unit, profile)


def _floor(gated: GatedNetwork, group: str, gates: GateConfig, target: float) -> int:
    """Smallest number of open gates of a group: a residual branch may close, a layer must not empty."""
    if gated.structure.kinds[group] == "branch":
        return 0
    n_gates = gated.groups[group]
    share = gates.floor_share * target * n_gates
    # 0.5 * 0.28 * 50 is a little more than 7
    return min(n_gates, max(gates.floor, math.ceil(share - _ROUNDING)))
