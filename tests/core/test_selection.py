"""Selection under a budget: the best that fit, the floor kept, the fewest flips."""

import itertools

import pytest
import torch

from greenprune_core.errors import ConfigError
from greenprune_core.selection import Ranking

PRICES = torch.tensor([4.0, 1.0, 2.0, 3.0, 5.0, 1.0], dtype=torch.float64)
GROUPS = [slice(0, 3), slice(3, 6)]


def price(masks: torch.Tensor) -> torch.Tensor:
    return masks @ PRICES


def test_the_longest_run_of_best_gates_that_fits_is_kept():
    score = torch.tensor([0.9, 0.8, 0.1, 0.7, 0.2, 0.3])
    # floors: gates 0 and 3 (7), then gate 1 (8), gate 5 (9), gate 4 (14)
    assert Ranking(GROUPS, [1, 1], price).keep_best(score, 9.0).tolist() == [True, True, False, True, False, True]
    assert Ranking(GROUPS, [1, 1], price).keep_best(score, 13.9).tolist() == [True, True, False, True, False, True]
    assert Ranking(GROUPS, [1, 1], price).keep_best(score, 16.0).tolist() == [True] * 6


def test_the_floor_is_kept_even_where_the_score_says_otherwise():
    score = torch.tensor([0.9, 0.8, 0.7, 0.01, 0.02, 0.03])
    kept = Ranking(GROUPS, [1, 1], price).keep_best(score, 5.0)
    assert kept.tolist() == [True, False, False, False, False, True]


def test_a_budget_below_the_floors_is_refused_with_the_share_they_cost():
    with pytest.raises(ConfigError, match="raise the target"):
        Ranking(GROUPS, [2, 2], price).keep_best(torch.linspace(0, 1, 6), 2.0)


def test_repair_that_needs_nothing_flips_nothing():
    open_fraction = torch.tensor([1.0, 0.9, 0.0, 1.0, 0.1, 0.0])
    selection = Ranking(GROUPS, [1, 1], price).repair(open_fraction, open_fraction, 8.0)
    assert selection.n_flipped == 0
    assert selection.cost == 8.0
    assert selection.kept_V.tolist() == [True, True, False, True, False, False]


def test_repair_closes_the_least_open_and_then_adds_what_still_fits():
    open_fraction = torch.tensor([1.0, 0.6, 0.4, 1.0, 0.9, 0.3])
    # majority costs 4 + 1 + 3 + 5 = 13; at 9 gate 1 (0.6) and then gate 4 (0.9) must go; gates 1 and 5 fit again
    selection = Ranking(GROUPS, [1, 1], price).repair(open_fraction, open_fraction, 9.0)
    assert selection.kept_V.tolist() == [True, True, False, True, False, True]
    assert selection.cost == 9.0
    assert selection.n_flipped == 2


def test_kept_gates_come_in_blocks():
    groups = [slice(0, 5), slice(5, 9)]
    ranking = Ranking(groups, [1, 1], lambda masks: masks.sum(-1), round_to=2)
    score = torch.tensor([0.1, 0.9, 0.8, 0.2, 0.3, 0.5, 0.6, 0.1, 0.2])
    kept = ranking.keep_best(score, 6.0)
    assert kept[:5].sum() in (2, 4, 5)
    assert kept[5:].sum() in (2, 4)
    assert kept[1:3].all()


@pytest.mark.parametrize("seed", range(20))
def test_the_small_last_block_of_a_group_is_not_kept_without_those_before_it(seed):
    generator = torch.Generator().manual_seed(seed)
    groups = [slice(0, 20), slice(20, 32), slice(32, 41)]
    price_V = torch.rand(41, generator=generator, dtype=torch.float64) + 0.1
    score_V = torch.rand(41, generator=generator)
    ranking = Ranking(groups, [1, 1, 1], lambda masks: masks.to(torch.float64) @ price_V, round_to=8)
    kept_V = ranking.repair(score_V, score_V, 0.7 * float(price_V.sum())).kept_V
    for group in groups:
        n_kept, size = int(kept_V[group].sum()), group.stop - group.start
        assert n_kept % 8 == 0 or n_kept == size


@pytest.mark.parametrize("seed", range(20))
def test_the_prefix_search_agrees_with_trying_every_length(seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 30, (5,), generator=generator).tolist()
    edges = list(itertools.accumulate([0, *sizes]))
    groups = [slice(a, b) for a, b in itertools.pairwise(edges)]
    prices = torch.rand(edges[-1], generator=generator, dtype=torch.float64)
    score = torch.rand(edges[-1], generator=generator)
    limit = float(prices.sum()) * 0.6
    ranking = Ranking(groups, [1] * 5, lambda masks: masks @ prices)
    rank = ranking._rank(score)
    lengths = [k for k in range(5, edges[-1] + 1) if float(prices[rank < k].sum()) <= limit]
    if not lengths:
        with pytest.raises(ConfigError):
            ranking.keep_best(score, limit)
        return
    assert ranking.keep_best(score, limit).equal(rank < max(lengths))
    selection = ranking.repair(score, score, limit)
    assert selection.cost <= limit * (1 + 1e-9)
    closed = prices[~selection.kept_V]
    assert len(closed) == 0 or float(closed.min()) + selection.cost > limit


def test_a_branch_that_does_not_fit_whole_is_opened_with_the_channels_that_do():
    groups = [slice(0, 4), slice(4, 8), slice(8, 9), slice(9, 10)]  # two layers and the branches that they lie in

    def price_of_branches(masks: torch.Tensor) -> torch.Tensor:
        return masks[..., 8] * (1 + masks[..., :4].sum(-1)) + masks[..., 9] * (1 + masks[..., 4:8].sum(-1))

    score = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.6, 0.9, 0.7, 0.8, 0.95, 0.3])
    selection = Ranking(groups, [1, 1, 0, 0], price_of_branches).repair(score, score, 8.0)
    assert selection.kept_V.tolist() == [True] * 4 + [False, True, False, True] + [True, True]
    assert selection.cost == 8.0
    assert selection.n_flipped == 3
    too_small = Ranking(groups, [1, 1, 0, 0], price_of_branches).repair(score, score, 6.5)
    assert too_small.kept_V.tolist() == [True] * 9 + [False]


def test_costs_in_steps_of_lanes_do_not_count_as_free_channels():
    def price_in_steps(masks: torch.Tensor) -> torch.Tensor:
        return torch.ceil(masks[..., :3].sum(-1) / 2) * 2 + torch.ceil(masks[..., 3:].sum(-1) / 2) * 2

    score = torch.tensor([0.9, 0.8, 0.7, 0.95, 0.85, 0.75])
    selection = Ranking(GROUPS, [1, 1], price_in_steps).repair(score, score, 6.0)
    assert selection.cost == 6.0
    assert selection.kept_V.tolist() == [True, True, False, True, True, True]
