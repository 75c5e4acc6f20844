"""Networks drawn at random: each is gated and cut exactly, whatever stands next to what."""

from typing import get_args

import pytest
from exact_cuts import Granularity, check_cuts
from random_networks import RandomNetwork

KINDS = get_args(Granularity)


@pytest.mark.parametrize("seed", range(60))
def test_a_random_network_is_cut_exactly(seed: int) -> None:
    check_cuts(RandomNetwork(seed), KINDS[seed % len(KINDS)], streams=seed % 2 == 0)
