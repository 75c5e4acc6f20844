"""Residual branches: the parts of a network that an addition can do without."""

import itertools
from dataclasses import dataclass

from torch import fx, nn

from greenprune_core.graph.rows import has_row_per_image
from greenprune_core.graph.trace import ADDITIONS, is_tensor

_WORK = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
    nn.MultiheadAttention,
)


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A residual branch: `addition = shortcut + branch`; closing it leaves `shortcut`."""

    name: str
    addition: fx.Node
    branch: fx.Node
    shortcut: fx.Node
    entry: fx.Node
    """The value that the branch starts from."""
    inside: frozenset[fx.Node]
    """The nodes that nobody needs once the branch is closed."""


def find_branches(traced: fx.GraphModule) -> list[Branch]:
    """Find the residual branches of a graph with shapes, in order.

    At an addition of two tensors of one shape, the operand with more layers of its own (convolutions, linear layers,
    attention) is the branch; with equally many, neither is a shortcut and the addition is passed over.
    """
    ancestors = _ancestors(traced)
    found: list[Branch] = []
    for node in traced.graph.nodes:
        operands = [n for n in node.all_input_nodes if is_tensor(n)]
        is_addition = node.target in ADDITIONS and len(operands) == 2 and not node.kwargs and is_tensor(node)
        if is_addition and all(operand.meta["shape"] == node.meta["shape"] for operand in operands):
            branch = _branch_at(traced, node, operands, ancestors, [b.name for b in found])
            if branch is not None:
                found.append(branch)
    return found


def _branch_at(
    traced: fx.GraphModule,
    addition: fx.Node,
    operands: list[fx.Node],
    ancestors: dict[fx.Node, set[fx.Node]],
    taken: list[str],
) -> Branch | None:
    owns = [ancestors[one] - ancestors[other] for one, other in (operands, operands[::-1])]
    n_layers = [_n_layers(traced, own) for own in owns]
    if n_layers[0] == n_layers[1]:
        return None
    which = 0 if n_layers[0] > n_layers[1] else 1
    inside = _needless_without(addition, operands[which])
    own = owns[which]
    read = {n for inner in own for n in inner.all_input_nodes if n not in own and n.op != "get_attr" and is_tensor(n)}
    # The gate decides before the branch runs and once per image, so on what is there by then and has one part for each.
    before = itertools.takewhile(lambda node: node not in inside, traced.graph.nodes)
    entries = [n for n in before if n in read and has_row_per_image(n)]
    if not _n_layers(traced, inside) or not entries or not has_row_per_image(addition):
        return None
    return Branch(
        name=_name(traced, inside, taken),
        addition=addition,
        branch=operands[which],
        shortcut=operands[1 - which],
        entry=entries[-1],
        inside=inside,
    )


def _ancestors(traced: fx.GraphModule) -> dict[fx.Node, set[fx.Node]]:
    found: dict[fx.Node, set[fx.Node]] = {}
    for node in traced.graph.nodes:
        found[node] = {node}.union(*(found[source] for source in node.all_input_nodes))
    return found


def _n_layers(traced: fx.GraphModule, nodes: set[fx.Node] | frozenset[fx.Node]) -> int:
    return sum(n.op == "call_module" and isinstance(traced.get_submodule(str(n.target)), _WORK) for n in nodes)


def _needless_without(addition: fx.Node, branch: fx.Node) -> frozenset[fx.Node]:
    """Nodes that only serve the branch: all their readers do, down to the addition."""
    needless: set[fx.Node] = set()
    if set(branch.users) != {addition}:
        return frozenset()
    candidates = [branch]
    while candidates:
        node = candidates.pop()
        serves_only_branch = node is branch or all(user in needless for user in node.users)
        if node in needless or not serves_only_branch or node.op == "placeholder":
            continue
        needless.add(node)
        candidates.extend(node.all_input_nodes)
    return frozenset(needless)


def _name(traced: fx.GraphModule, inside: frozenset[fx.Node], taken: list[str]) -> str:
    """Name a branch after the block that holds its layers: `branch:layer1.0`."""
    layers = [str(n.target) for n in inside if n.op == "call_module"]
    paths = [layer.split(".") for layer in layers]
    depth = 0
    while all(len(path) > depth + 1 and path[depth] == paths[0][depth] for path in paths):
        depth += 1
    name = "branch:" + ".".join(min(paths)[: max(depth, 1)])
    n = 2
    unique = name
    while unique in taken:
        unique, n = f"{name}#{n}", n + 1
    return unique
