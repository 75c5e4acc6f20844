"""Which branches a node of a network lives by: it runs as long as one way from it to the output is open."""

import itertools
from collections.abc import Iterable, Iterator

from torch import fx

from greenprune_core.graph import ChannelStructure

Ways = tuple[tuple[int, ...], ...]
"""Sets of branch gates, by their flat indices; the node runs while all gates of at least one set are open."""

ALWAYS: Ways = ((),)
_MOST_WAYS = 8


def ways_to_output(structure: ChannelStructure) -> dict[fx.Node, Ways]:
    """Find for each node the gates of the branches that lie between it and the output.

    A node in a branch has one way, that of a branch in a branch two gates, and one that serves two branches two ways.
    """
    first = structure.n_gates - len(structure.branches)
    ends = {branch.addition: (branch.branch, first + i) for i, branch in enumerate(structure.branches)}
    onward: dict[fx.Node, Ways] = {}
    for node in reversed(list(structure.graph.graph.nodes)):
        ways: list[tuple[int, ...]] = [()] if node.op in ("output", "placeholder") else []
        for user in node.users:
            operand, gate = ends.get(user, (None, -1))
            ways.extend((*way, gate) if node is operand else way for way in onward[user])
        onward[node] = shortest(ways)
    # an addition disappears with its branch; what it hands on is then its shortcut
    own = {node: shortest((*way, gate) for way in onward[node]) for node, (_, gate) in ends.items()}
    return onward | own


def shortest(ways: Iterable[tuple[int, ...]]) -> Ways:
    """Leave out ways that are open only while another is; beyond a few, what is left counts as always open."""
    sets = sorted({frozenset(way) for way in ways}, key=lambda way: (len(way), sorted(way)))
    kept = [way for i, way in enumerate(sets) if not any(other <= way for other in sets[:i])]
    return tuple(tuple(sorted(way)) for way in kept) if len(kept) <= _MOST_WAYS else ALWAYS


def while_any(ways: Ways) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Write "at least one of these sets of gates is open" as a signed sum of products (inclusion and exclusion)."""
    for n in range(1, len(ways) + 1):
        for some in itertools.combinations(ways, n):
            yield (-1) ** (n + 1), tuple(sorted({gate for way in some for gate in way}))
