"""A copy of a dense graph while it is being cut: what is dead, what is constant, what of each tensor stays."""

import operator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from greenprune_core.errors import ConfigError
from greenprune_core.graph.flow import parameter_of, tensor_inputs
from greenprune_core.graph.labels import varying_axes
from greenprune_core.graph.resize import Pairs, kept_positions, resize
from greenprune_core.graph.structure import ChannelStructure
from greenprune_core.graph.trace import ADDITIONS, is_tensor

_BY_CHANNEL = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Identity, nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU),
    *(nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.LeakyReLU, nn.ELU, nn.Mish, nn.PReLU),
)
"""Layers that give one value per channel where they are given one."""

Slices = dict[str, Pairs]
BoolArray = NDArray[np.bool_]


class Cutter:
    """A copy of the dense graph while it is being cut."""

    def __init__(self, structure: ChannelStructure, open_gates: BoolArray) -> None:
        self.structure = structure
        self.dense = structure.graph
        self.open_gates = np.append(open_gates, True)  # index -1: always open
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.graph.output(self.graph.graph_copy(self.dense.graph, self.copies))
        self._extra: dict[str, Tensor] = {}
        self._folded: dict[str, tuple[Tensor, Pairs]] = {}
        self._constants: set[fx.Node] = set()
        self._spread: set[fx.Node] = set()

    def kept(self, node: fx.Node) -> BoolArray | None:
        """Tell for each channel of a dense node's value whether it stays; None if it has no channels."""
        array = self.structure.coupling.channels.get(node)
        return None if array is None else self.open_gates[array]

    def is_alive(self, node: fx.Node) -> bool:
        """Tell whether the copy of a dense node is still part of the graph."""
        return node in self.copies and not self.copies[node]._erased

    def replace(self, node: fx.Node, new: fx.Node) -> None:
        """Put another node in the place of the copy of a dense one."""
        self.copies[node].replace_all_uses_with(new)
        self.copies[node] = new

    def add_buffer(self, name: str, value: Tensor) -> str:
        """Keep a constant tensor beside the layers; returns its name."""
        device = next(self.dense.parameters()).device
        self._extra[name] = value.to(device)
        return name

    def close_branches(self) -> None:
        """Replace additions whose branch is closed by their shortcut."""
        first = self.structure.n_gates - len(self.structure.branches)
        for i, branch in enumerate(self.structure.branches):
            if not self.open_gates[first + i]:
                self.replace(branch.addition, self.copies[branch.shortcut])
        self.sweep()

    def fold_constants(self) -> None:
        """Replace layers that read closed channels only by their bias."""
        for node in self.structure.coupling.consumers:
            kept = self.kept(node.all_input_nodes[0])
            if kept is not None and self.is_alive(node) and not kept.any():
                self._replace_by_bias(node)
        self.sweep()

    def sweep(self) -> None:
        """Erase what has no reader, assertions among it."""
        for copy in reversed(list(self.graph.nodes)):
            if copy.op not in ("output", "placeholder") and not copy.users:
                self.graph.erase_node(copy)

    def build(self) -> tuple[fx.GraphModule, Slices]:
        """Make the smaller layers and put them under the graph.

        Raises:
            ConfigError: a group is closed and the output no longer depends on the input, or a layer that it needs has
                no channel left.
        """
        self._check_path()
        root: dict[str, Any] = dict(self._extra)
        slices: Slices = dict.fromkeys(self._extra, ())
        for node in self._copied("call_module"):
            target = str(node.target)
            if target not in root:
                sources = tensor_inputs(node)
                inputs = self.kept(sources[0]) if sources else None
                root[target], pairs = resize(self.dense.get_submodule(target), inputs, self.kept(node))
                _check_not_empty(target, root[target])
                slices.update({f"{target}.{name}": pair for name, pair in pairs.items()})
        for node in self._copied("get_attr"):
            target = str(node.target)
            if target in slices and target not in root:  # a layer that is there has it
                root[target] = _part(root, target)
            elif target not in root:
                root[target], slices[target] = self._cut_parameter(node)
        for target, (bias, pairs_of_bias) in self._folded.items():
            root[target], slices[target] = bias, pairs_of_bias
        for copy in self.graph.nodes:
            # of all notes only this one is read later: without it unpickling would trace into what torch.fx.wrap names
            copy.meta = {name: value for name, value in copy.meta.items() if name == "is_wrapped"}
        self.graph.lint()
        static = fx.GraphModule(root, self.graph, class_name=type(self.dense).__name__)
        self._tie(static)
        return static.train(self.dense.training), slices

    def _tie(self, static: fx.GraphModule) -> None:
        """Let layers share the parameters that they share in the dense network."""
        first: dict[int, nn.Parameter] = {}
        for name, part in list(static.named_parameters(remove_duplicate=False)):
            shared = first.setdefault(id(self.dense.get_parameter(name)), part)
            if shared is not part:
                owner, _, own = name.rpartition(".")
                setattr(static.get_submodule(owner), own, shared)

    def _copied(self, op: str) -> list[fx.Node]:
        """Return the dense nodes of a kind that are still there as what they were."""
        return [node for node, copy in self.copies.items() if node.op == copy.op == op and not copy._erased]

    def _replace_by_bias(self, node: fx.Node) -> None:
        """Write `zeros(N, ..) + bias`: exact in training too."""
        module: Any = self.dense.get_submodule(str(node.target))
        copy, shape = self.copies[node], list(node.meta["shape"])
        axis = len(shape) - 1 if isinstance(module, nn.Linear) else 1
        kept_array = self.kept(node)
        assert kept_array is not None
        kept = kept_positions(kept_array, axis - 1, shape[axis])
        if self._is_spread_by_additions(copy):
            shape[1:] = [1] * (len(shape) - 1)  # so that the cut network takes images of any size
        shape[axis] = len(kept)
        image = next(n for n in self.graph.nodes if n.op == "placeholder")
        with self.graph.inserting_before(copy):
            n_images = self.graph.call_method("size", (image, 0))
            constant = self.graph.call_method("new_zeros", (image, (n_images, *shape[1:])))
            self._constants.add(constant)
            if module.bias is not None:
                name = f"{node.target}.bias"
                part = nn.Parameter(module.bias.detach()[kept.to(module.bias.device)], module.bias.requires_grad)
                self._folded[name] = part, ((0, kept),)
                bias = self.graph.get_attr(name)
                bias = self.graph.call_method(
                    "reshape", (bias, (1, *(-1 if i == axis else 1 for i in range(1, len(shape)))))
                )
                constant = self.graph.call_function(torch.add, (constant, bias))
        self.replace(node, constant)

    def _is_spread_by_additions(self, constant: fx.Node) -> bool:
        """Tell whether one value per channel is enough: norms and activations lead to additions with whole tensors."""
        path, readers = {constant}, [(constant, user) for user in constant.users]
        while readers:
            source, reader = readers.pop()
            if reader.target in ADDITIONS:
                others = [n for n in reader.all_input_nodes if n is not source]
                if len(others) != 1 or not is_tensor(others[0]) or others[0] in self._spread | path:
                    return False
                if others[0].meta["shape"] != reader.meta["shape"]:
                    return False
            elif reader.op == "call_module" and type(self.dense.get_submodule(str(reader.target))) in _BY_CHANNEL:
                path.add(reader)
                readers.extend((reader, user) for user in reader.users)
            else:
                return False
        self._spread |= path
        return True

    def _cut_parameter(self, node: fx.Node) -> tuple[Tensor, Pairs]:
        value = parameter_of(self.dense, node)
        kept = self.kept(node)
        pairs: Pairs = ()
        if kept is not None and not kept.all():
            (axis,) = varying_axes(kept)
            pairs = ((axis + value.dim() - kept.ndim, torch.from_numpy(np.flatnonzero(kept.reshape(-1)))),)
        part = value.detach()
        for axis, positions in pairs:
            part = part.index_select(axis, positions.to(part.device))
        if isinstance(value, nn.Parameter):
            return nn.Parameter(part.clone(), value.requires_grad), pairs
        return part.clone(), pairs

    def _closes_a_group(self) -> bool:
        kinds, places = self.structure.kinds, self.structure.group_slices
        return any(kinds[name] != "branch" and not self.open_gates[place].any() for name, place in places.items())

    def _check_path(self) -> None:
        reached: set[fx.Node] = set()
        for node in self.graph.nodes:
            if node.op == "placeholder" or (node not in self._constants and reached & set(node.all_input_nodes)):
                reached.add(node)
        has_path = any(node.op == "output" and node in reached for node in self.graph.nodes)
        if not has_path and self._closes_a_group():  # else what is read of each group is closed: exact, if of no use
            raise ConfigError(
                f"a cut network needs a path from its input to its output, but these masks keep "
                f"{int(self.open_gates[:-1].sum())} of {len(self.open_gates) - 1} gates and no path; keep at least one "
                "channel per group"
            )


def _part(root: dict[str, Any], target: str) -> Tensor:
    """Return a parameter or buffer of a layer that has been cut."""
    layer = next(name for name in root if target.startswith(f"{name}."))
    part: Tensor = operator.attrgetter(target.removeprefix(f"{layer}."))(root[layer])
    return part


def _check_not_empty(name: str, layer: nn.Module) -> None:
    """Refuse a layer that makes nothing but is needed (it is padded, or its size is written into a view)."""
    if any(parameter.numel() == 0 for parameter in layer.parameters()):
        raise ConfigError(
            f"a layer of a cut network keeps a channel, but these masks close all of {name}, whose output is still "
            "needed; keep at least one channel per group"
        )
