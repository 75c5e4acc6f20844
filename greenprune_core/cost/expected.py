"""The cost of one inference as a differentiable function of the gates.

Every operator of the dense graph is counted once and attributed to its node. Its cost is then linear in the open share
of its input channels, in that of its output channels, and in the gates of the branches around it, so the expected cost
is a sum of products: a convolution's MACs fall with both of its sides, an activation's bytes with one. Gates count as
independent. Where a profile prices time and rounds channels up to lanes, so does the expectation, and its slope is that
of the unrounded share, scaled. At hard masks the value is the cost of the cut network.
"""

from collections.abc import Container
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from greenprune_core.cost.count import OperatorCost
from greenprune_core.cost.energy import PARTS, operator_joules
from greenprune_core.cost.profile import DeviceProfile
from greenprune_core.cost.terms import Gates, Price, Term, merged, operator_terms, parameter_terms
from greenprune_core.errors import ConfigError
from greenprune_core.graph import ChannelStructure

Unit = Literal["macs", "params", "joules"]


class ExpectedCost(nn.Module):
    """Absolute expected cost of one inference for open probabilities (or hard masks) of the gates.

    A call costs one product of the gates with a matrix [n_gates, n tensors of different channels] and a few operations
    on vectors of about as many terms as the network has layers: 0.1 ms for ResNet-56 on a CPU.

    Args:
        structure: which gate decides on which channel of which node.
        unit: macs, params, or joules of the device profile at batch size 1.
        profile: needed for joules, else not allowed.

    Raises:
        ConfigError: unknown unit, or a profile that is missing or would be ignored.
    """

    _share_GS: Tensor
    _open_S: Tensor
    _amount_T: Tensor
    _one_T: Tensor
    _other_T: Tensor
    _branch_T: Tensor
    _branches_BD: Tensor
    _n_channels_S: Tensor
    _padded_TP: Tensor

    def __init__(self, structure: ChannelStructure, unit: Unit = "macs", profile: DeviceProfile | None = None) -> None:
        super().__init__()
        if unit not in ("macs", "params", "joules"):
            raise ConfigError(f"a cost is in macs, params or joules, but got {unit!r}; choose one of them")
        if (unit == "joules") != (profile is not None):
            got = f"{unit!r} with profile {profile.name if profile else None}"
            raise ConfigError(
                f"joules need a device profile and other units take none, but got {got}; see load_profile"
            )
        self.unit = unit
        self.n_gates = structure.n_gates
        self._lanes = profile.timing(1).lanes if profile and profile.static_power_w else 1
        self._set_terms(merged(_terms(structure, unit, profile)))
        self.dense = float(self(torch.ones(self.n_gates, dtype=torch.float64)))

    def _set_terms(self, terms: list[Term]) -> None:
        sides = sorted({gates for term in terms for gates in (term.one, term.other, *term.padded)})
        branches = sorted({term.branches for term in terms})
        depth = max(map(len, branches), default=0)
        place = {gates: i for i, gates in enumerate(sides)}
        branch_place = {gates: i for i, gates in enumerate(branches)}
        share_GS, open_S = _share_matrix(sides, self.n_gates)
        buffers = {
            "_share_GS": share_GS,
            "_open_S": open_S,
            "_amount_T": torch.tensor([term.amount for term in terms], dtype=torch.float64),
            "_one_T": torch.tensor([place[term.one] for term in terms], dtype=torch.long),
            "_other_T": torch.tensor([place[term.other] for term in terms], dtype=torch.long),
            "_branch_T": torch.tensor([branch_place[term.branches] for term in terms], dtype=torch.long),
            # padded with the index behind the last gate, which is always open
            "_branches_BD": torch.tensor(
                [list(gates) + [self.n_gates] * (depth - len(gates)) for gates in branches], dtype=torch.long
            ).reshape(len(branches), depth),
            "_n_channels_S": torch.tensor([float(len(side)) for side in sides], dtype=torch.float64),
            # likewise padded with the index behind the last side, which is never rounded
            "_padded_TP": torch.tensor(
                [[place[gates] for gates in term.padded] + [len(sides)] * (2 - len(term.padded)) for term in terms]
            ),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, open_: Tensor) -> Tensor:
        """Return the expected cost.

        Args:
            open_: Tensor[..., n_gates] of open probabilities in [0, 1], or of booleans.

        Returns:
            Tensor[...] in the unit's absolute numbers, of the dtype of `open_` if that is a float of 32 or 64 bits,
            else float64. Reckoned in float64, so that it equals the cut network's cost.
        """
        if open_.shape[-1] != self.n_gates:
            raise ConfigError(
                f"an expected cost needs one value per gate ({self.n_gates}), but got shape {tuple(open_.shape)}; "
                "pass the flat gate vector"
            )
        exact = open_.to(torch.float64)
        share = exact @ self._share_GS + self._open_S
        value = share.index_select(-1, self._one_T) * share.index_select(-1, self._other_T)
        if self._lanes > 1:
            growth = self._growth(share.detach())
            value = (
                value * growth.index_select(-1, self._padded_TP[:, 0]) * growth.index_select(-1, self._padded_TP[:, 1])
            )
        if self._branches_BD.shape[1]:
            value = value * self._branch_open(exact).index_select(-1, self._branch_T)
        cost: Tensor = value @ self._amount_T
        return cost.to(open_.dtype) if open_.dtype == torch.float32 else cost

    def _growth(self, share_S: Tensor) -> Tensor:
        """By how much the open channels of each side grow when rounded up to lanes, and 1 behind the last."""
        open_S = share_S * self._n_channels_S
        # less than half a channel is a leak of a gate that is about to close, not worth a block of lanes
        blocks_S = torch.ceil((open_S - 0.5) / self._lanes).clamp_min(1)
        growth_S = torch.where(open_S > 0.5, blocks_S * self._lanes / open_S.clamp_min(0.5), 1.0)
        return torch.cat([growth_S, growth_S.new_ones(*growth_S.shape[:-1], 1)], dim=-1)

    def _branch_open(self, exact: Tensor) -> Tensor:
        padded = torch.cat([exact, exact.new_ones(*exact.shape[:-1], 1)], dim=-1)
        product: Any = 1.0
        for gates_B in self._branches_BD.unbind(1):
            product = product * padded.index_select(-1, gates_B)
        return product  # type: ignore[no-any-return]


def _share_matrix(sides: list[Gates], n_gates: int) -> tuple[Tensor, Tensor]:
    """Matrix [n_gates, sides] and offset [sides] that turn gates into the open share of each side."""
    share_GS = torch.zeros(n_gates, len(sides), dtype=torch.float64)
    open_S = torch.zeros(len(sides), dtype=torch.float64)
    for i, side in enumerate(sides):
        gates = np.asarray(side, dtype=np.int64)
        counts = np.bincount(gates[gates >= 0], minlength=n_gates)
        n_channels = max(len(gates), 1)
        share_GS[:, i] = torch.from_numpy(counts / n_channels)
        open_S[i] = 1.0 if not side else float((gates < 0).sum()) / n_channels
    return share_GS, open_S


def _terms(structure: ChannelStructure, unit: Unit, profile: DeviceProfile | None) -> list[Term]:
    if unit == "params":
        return parameter_terms(structure)
    if profile is None:
        return operator_terms(structure, lambda operator: float(operator.macs))

    def joules_of(parts: Container[str]) -> Price:
        def price(operator: OperatorCost) -> float:
            return sum(value for part, value in operator_joules(operator, profile).items() if part in parts)

        return price

    static = joules_of({"static"}) if profile.static_power_w is not None else None
    return operator_terms(structure, joules_of(set(PARTS) - {"static"}), static)
