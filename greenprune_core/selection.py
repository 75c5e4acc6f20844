"""Which gates are kept under a budget: the best ranked that fit, never fewer than a floor per group.

The same rule is used at every step (where freezing now would put each gate: the polariser's watershed) and at the
freeze (the exact repair of the consensus), so that the two never disagree.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from greenprune_core.errors import ConfigError

CostOf = Callable[[Tensor], Tensor]
"""Cost of masks, `[..., V] -> [...]` on the CPU in float64; monotone: opening a gate never lowers it."""

_CANDIDATES = 17
_CHUNK = 256
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Gates kept under a budget, and what it took to get there."""

    kept_V: Tensor
    """Mask of the kept gates, bool, on the CPU."""
    cost: float
    """Cost of exactly these gates, at most the limit."""
    n_flipped: int
    """Gates that the budget turned against the majority of the images."""


class Ranking:
    """The order in which gates are kept; built once per network, used at every step.

    Args:
        groups: slices of the flat gate vector, one per group.
        floors: smallest number of open gates of each group (0: the group may close, e.g. a residual branch).
        cost: cost of a mask.
        round_to: gates of a group are kept in blocks of this size (best block first).
    """

    def __init__(self, groups: Sequence[slice], floors: Sequence[int], cost: CostOf, round_to: int = 1) -> None:
        self._cost = cost
        self._round_to = round_to
        sizes = torch.tensor([group.stop - group.start for group in groups])
        n_blocks = -(-sizes // round_to)
        n_forced = -(-torch.tensor(list(floors)) // round_to)
        self._group_V = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        self._group_start_V = torch.tensor([group.start for group in groups])[self._group_V]
        self._block_start_V = (torch.cumsum(n_blocks, 0) - n_blocks)[self._group_V]
        self._n_blocks = int(n_blocks.sum())
        self._n_forced = int(n_forced.sum())
        block_in_group = torch.cat([torch.arange(int(n)) for n in n_blocks])
        self._is_forced_B = block_in_group < torch.repeat_interleave(n_forced, n_blocks)

    def keep_best(self, score_V: Tensor, limit: float) -> Tensor:
        """Return the mask (bool, V, on the CPU) of the longest run of best gates that costs at most `limit`.

        The best gates of each group up to its floor come first, then all others by score. Three batched evaluations
        of the cost, whatever V.

        Args:
            score_V: the higher, the rather kept.
            limit: largest cost, in the unit of the cost function.

        Raises:
            ConfigError: even the floors alone cost more than the limit.
        """
        rank_V = self._rank(score_V)
        return rank_V < self._longest_prefix(rank_V, limit)

    def repair(self, open_fraction_V: Tensor, score_V: Tensor, limit: float) -> Selection:
        """Turn the majority of the images into a mask at or just under the budget, with the fewest flips.

        Gates open for most images are kept before the others; within both, by score. Over budget, the least open are
        closed; under budget, the most open are reopened; then single gates (blocks) that still fit are added, and a
        branch that does not fit as a whole is opened with those of its channels that do.

        Args:
            open_fraction_V: share of the images on which each gate is open, in [0, 1].
            score_V: finer ranking (mean open probability), in [0, 1].
            limit: largest cost.

        Raises:
            ConfigError: even the floors alone cost more than the limit.
        """
        majority_V = open_fraction_V.cpu() >= 0.5
        score_V = score_V.cpu()
        rank_V = self._rank(majority_V * 2 + score_V)
        kept_V = rank_V < self._longest_prefix(rank_V, limit)
        kept_V = self._fill(kept_V, rank_V, limit)
        while (fuller_V := self._open_in_part(kept_V, rank_V, limit)) is not None:
            kept_V = fuller_V
        n_flipped = int((kept_V != majority_V).sum())
        return Selection(kept_V=kept_V, cost=float(self._cost(kept_V.to(torch.float64))), n_flipped=n_flipped)

    def majority(self, score_V: Tensor) -> Tensor:
        """Return the gates of at least half a score, whatever they cost, and the best of each group up to its floor.

        Args:
            score_V: share of images, or mean open probability, in [0, 1].
        """
        rank_V = self._rank(score_V)
        kept_V = (score_V.cpu() >= 0.5) | (rank_V < self._n_forced)
        return torch.isin(rank_V, rank_V[kept_V])  # whole blocks

    def _rank(self, score_V: Tensor) -> Tensor:
        """Position of each gate in the order of keeping; gates of one block share a position."""
        score_V = score_V.detach().to("cpu", torch.float64)  # small and sequential: faster there than on a GPU
        by_score = torch.argsort(score_V, descending=True, stable=True)
        by_group = by_score[torch.argsort(self._group_V[by_score], stable=True)]
        place_V = torch.empty_like(by_group)
        place_V[by_group] = torch.arange(len(by_group))
        block_V = self._block_start_V + (place_V - self._group_start_V) // self._round_to
        total_B = torch.zeros(self._n_blocks, dtype=torch.float64).index_add(0, block_V, score_V)
        mean_B = total_B / torch.bincount(block_V, minlength=self._n_blocks)
        mean_B[self._is_forced_B] = torch.inf
        order_B = torch.argsort(mean_B, descending=True, stable=True)
        position_B = torch.empty_like(order_B)
        position_B[order_B] = torch.arange(self._n_blocks)
        return position_B[block_V]

    def _longest_prefix(self, rank_V: Tensor, limit: float) -> int:
        """Largest K such that the gates with rank below K cost at most the limit."""
        low, high = self._n_forced, self._n_blocks
        if float(self._cost((rank_V < low).to(torch.float64))) > limit * (1 + _ROUNDING):
            self._refuse(rank_V, low, limit)
        return self._bisect(torch.zeros_like(rank_V, dtype=torch.bool), rank_V, (low, high), limit)

    def _bisect(self, kept_V: Tensor, place_V: Tensor, between: tuple[int, int], limit: float) -> int:
        """Largest K in the range such that the kept gates with all of place below K cost at most the limit."""
        low, high = between
        while low < high:  # invariant: a prefix of `low` fits, one of more than `high` does not
            lengths = torch.unique(torch.linspace(low + 1, high, _CANDIDATES).round().long())
            candidates = kept_V[None, :] | (place_V[None, :] < lengths[:, None])
            n_fitting = int((self._cost(candidates.to(torch.float64)) <= limit * (1 + _ROUNDING)).sum())
            if n_fitting < len(lengths):
                high = int(lengths[n_fitting]) - 1
            if n_fitting > 0:
                low = int(lengths[n_fitting - 1])
        return low

    def _refuse(self, rank_V: Tensor, low: int, limit: float) -> None:
        floor_cost = float(self._cost((rank_V < low).to(torch.float64)))
        dense_cost = float(self._cost(torch.ones_like(rank_V, dtype=torch.float64)))
        raise ConfigError(
            f"the budget must leave room for all floors ({floor_cost / dense_cost:.3f} of the dense cost), "
            f"but got a kept fraction of {limit / dense_cost:.3f}; raise the target, lower floor, floor_share or "
            "round_to, or gate more layers"
        )

    def _fill(self, kept_V: Tensor, rank_V: Tensor, limit: float) -> Tensor:
        """Add single blocks, best first, as long as one fits in what the prefix left of the budget."""
        kept_V = kept_V.clone()
        closed = torch.unique(rank_V[~kept_V])
        while len(closed):
            head, closed = closed[:_CHUNK], closed[_CHUNK:]
            candidates = kept_V[None, :] | (rank_V[None, :] == head[:, None])
            fitting = head[self._cost(candidates.to(torch.float64)) <= limit * (1 + _ROUNDING)]
            fitting = self._in_order(fitting, kept_V, rank_V)
            if len(fitting):  # what did not fit now cannot fit later: the cost only grows
                n_added = self._n_that_fit_together(kept_V, rank_V, fitting, limit)
                kept_V |= torch.isin(rank_V, fitting[:n_added])
                closed = torch.cat([fitting[n_added + 1 :], closed])  # the one after them did not fit
        return kept_V

    def _in_order(self, fitting: Tensor, kept_V: Tensor, rank_V: Tensor) -> Tensor:
        """Leave out blocks behind one of their group that stays closed.

        A group's last block may be small and fit alone, which would leave no multiple of the block's size.
        """
        if self._round_to == 1:
            return fitting
        stays_V = ~kept_V & ~torch.isin(rank_V, fitting)
        first_G = torch.full((int(self._group_V[-1]) + 1,), self._n_blocks)
        first_G = first_G.scatter_reduce(0, self._group_V[stays_V], rank_V[stays_V], "amin")
        group_B = torch.empty(self._n_blocks, dtype=torch.long)
        group_B[rank_V] = self._group_V
        return fitting[fitting < first_G[group_B[fitting]]]

    def _n_that_fit_together(self, kept_V: Tensor, rank_V: Tensor, fitting: Tensor, limit: float) -> int:
        """Return how many of these ranks, in this order, can be added at once; each fits alone."""
        place_B = torch.full((self._n_blocks,), len(fitting))
        place_B[fitting] = torch.arange(len(fitting))
        return self._bisect(kept_V, place_B[rank_V], (1, len(fitting)), limit)

    def _open_in_part(self, kept_V: Tensor, rank_V: Tensor, limit: float) -> Tensor | None:
        """Open the best closed branch that fits with some of its channels, or return None if none helps.

        A branch is known by its cost: while it is closed its channels are free, so that all of them count as kept.
        """
        cost = float(self._cost(kept_V.to(torch.float64)))
        is_free_V = self._free(kept_V, rank_V, cost)
        for rank in torch.unique(rank_V[~kept_V]) if bool(is_free_V.any()) else ():
            opened_V = kept_V | (rank_V == rank)
            bare_V = opened_V & ~is_free_V
            costs = self._cost(torch.stack((opened_V, bare_V)).to(torch.float64))
            if costs[1] <= limit * (1 + _ROUNDING) and costs[1] < costs[0] * (1 - _ROUNDING):
                fuller_V = self._fill(bare_V, rank_V, limit)
                # costs that are rounded up to lanes have free channels too, but to exchange them gains nothing
                if float(self._cost(fuller_V.to(torch.float64))) > cost * (1 + _ROUNDING):
                    return fuller_V
        return None

    def _free(self, kept_V: Tensor, rank_V: Tensor, cost: float) -> Tensor:
        """Return the kept gates above the floors that could be closed, each alone, at no gain."""
        ranks = torch.unique(rank_V[kept_V & (rank_V >= self._n_forced)])
        free = [
            part[self._costs_without(kept_V, rank_V, part) >= cost * (1 - _ROUNDING)] for part in ranks.split(_CHUNK)
        ]
        return torch.isin(rank_V, torch.cat(free))

    def _costs_without(self, kept_V: Tensor, rank_V: Tensor, ranks: Tensor) -> Tensor:
        return self._cost((kept_V[None, :] & (rank_V[None, :] != ranks[:, None])).to(torch.float64))
