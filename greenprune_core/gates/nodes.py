"""The nodes that gating adds to a graph: one that decides for a group, one that multiplies a tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from greenprune_core.gates.families import Gate
from greenprune_core.gates.scale import Products, pool_channels, scale_channels


class GroupGate(nn.Module):
    """Decides for one group: learned while dynamic, a constant once frozen."""

    mask: Tensor
    positions: Tensor | None

    def __init__(
        self, gate: Gate, n_gates: int, axis: int, positions: Sequence[int] | None, products: Products
    ) -> None:
        """Wrap a gate.

        Args:
            gate: a member of a gate family.
            n_gates: number of gates in the group.
            axis: channel axis of the tensor that it looks at (0 is the batch).
            positions: the group's channels along that axis; None for all of them.
            products: the memory of the network that it belongs to.
        """
        super().__init__()
        self.gate = gate
        self.axis = axis
        self.is_frozen = False
        self.products = products
        self.register_buffer("mask", torch.ones(n_gates, dtype=torch.bool))
        where = None if positions is None else torch.tensor(positions)
        self.register_buffer("positions", where, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return open probability and decision, each (N, n_gates) or (1, n_gates)."""
        if self.is_frozen:
            mask = self.mask.to(x.dtype).unsqueeze(0)
            return mask, mask
        if not self.gate.uses_features:
            p, g = self.gate(x)
            return p, g
        pooled, deferred = pool_channels(x, self.axis)
        p, g = self.gate(pooled if self.positions is None else pooled.index_select(1, self.positions))
        self.products.note_decision(g, x, deferred)
        return p, g


class Multiply(nn.Module):
    """Multiplies the channels of one tensor by the decisions of their groups."""

    index: Tensor | None

    def __init__(self, axis: int, index: Sequence[int] | None, products: Products) -> None:
        """Prepare the multiplication.

        Args:
            axis: channel axis (0 is the batch).
            index: for each channel its place in the decisions, joined in the order of the arguments and followed by
                one that is always open; None where channels and decisions match one to one.
            products: the memory of the network that it belongs to.
        """
        super().__init__()
        self.axis = axis
        self.products = products
        where = None if index is None else torch.tensor(index)
        self.register_buffer("index", where, persistent=False)

    def forward(self, x: Tensor, *decisions: Tensor) -> Tensor:
        """Return `x` with closed channels at zero."""
        if self.index is None:
            scale = decisions[0]
        else:
            always = decisions[0].new_ones((decisions[0].shape[0], 1))
            scale = torch.cat((*decisions, always), 1).index_select(1, self.index)
        product = scale_channels(x, scale, self.axis, self.products.deferred_of(x, decisions))
        self.products.note(product, x, scale, self.axis)
        return product
