"""The state of one walk along a graph: which labels every tensor wears, and who reads them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from greenprune_core.graph.labels import LabelArray, Labels, varying_axes
from greenprune_core.graph.parameter_views import parameter_behind
from greenprune_core.graph.trace import is_tensor

Worn = LabelArray | list[LabelArray] | None


@dataclass
class Flow:
    """What a walk has found so far."""

    traced: fx.GraphModule
    forced_open: dict[str, str]
    """Layers whose outputs are never gated, with the reason."""
    whole: dict[str, str] = field(default_factory=dict)
    """Layers and parameters of which nothing is cut, neither for inputs nor for outputs, with the reason."""
    labels: Labels = field(default_factory=Labels)
    worn: dict[fx.Node, Worn] = field(default_factory=dict)
    """Labels of every node's value; None for what is no activation."""
    consumers: list[fx.Node] = field(default_factory=list)
    """Convolutions and linear layers that mix channels: gates act at their input."""
    made: dict[str, LabelArray] = field(default_factory=dict)
    """Output labels by layer: a layer that runs twice wears the same."""
    read: dict[str, LabelArray] = field(default_factory=dict)
    """Input labels by layer with one parameter slice per channel."""

    def array(self, node: fx.Node) -> LabelArray:
        """Return the labels of a tensor; a parameter that is no activation wears one open label."""
        worn = self.worn.get(node)
        if isinstance(worn, np.ndarray):
            return worn
        n_axes = len(node.meta["shape"]) - 1 if is_tensor(node) else 0
        return self.labels.always_open(max(n_axes, 0), "mixed with a tensor whose channels are unknown")

    def module(self, node: fx.Node) -> nn.Module:
        """Return the layer that a node calls."""
        return self.traced.get_submodule(str(node.target))

    def outputs(self, node: fx.Node, shape: tuple[int, ...]) -> LabelArray:
        """Return the labels that a layer produces, the same at each of its calls."""
        layer = str(node.target)
        if layer not in self.made:
            self.made[layer] = self.labels.create(shape, layer)
            reason = self.whole.get(layer, self.forced_open.get(layer))
            if reason is not None:
                self.labels.keep_open(self.made[layer], reason)
        return self.made[layer].reshape(shape)

    def reads(self, node: fx.Node, channels: LabelArray) -> None:
        """Note the channels that a layer reads; at a second call they are coupled with those of the first."""
        layer = str(node.target)
        if layer in self.read:
            self.labels.union(self.read[layer], channels)
        else:
            self.read[layer] = channels
        if layer in self.whole:
            self.labels.keep_open(channels, self.whole[layer])

    def keep_whole(self, layer: str, reason: str) -> None:
        """Cut nothing of a layer or parameter, at the calls so far and at those to come."""
        reason = self.whole.setdefault(layer, reason)
        for channels in (self.made.get(layer), self.read.get(layer)):
            if channels is not None:
                self.labels.keep_open(channels, reason)


def tensor_inputs(node: fx.Node) -> list[fx.Node]:
    """Return the nodes among the inputs that are activations (one tensor or a tuple of them), without parameters."""
    return [n for n in node.all_input_nodes if n.op != "get_attr" and n.meta.get("shape") is not None]


def parameter_of(traced: fx.GraphModule, node: fx.Node) -> Tensor:
    """Return the parameter or buffer that a get_attr node reads."""
    value: Any = traced
    for part in str(node.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value


def unknown(flow: Flow, node: fx.Node) -> Worn:
    """Keep all channels open that an operation outside the tables reads."""
    return opened(flow, node, f"read by {kind_of(flow, node)}, which is not in the table of operations")


def unfollowed(flow: Flow, node: fx.Node) -> Worn:
    """Keep all channels open that a known operation reads in a way that labels cannot be carried through."""
    return opened(flow, node, f"read by {kind_of(flow, node)} in a layout that is not followed")


def opened(flow: Flow, node: fx.Node, reason: str) -> Worn:
    """Keep all channels open that a node reads, its layer whole, and let its value wear one open label."""
    if node.op == "call_module":
        flow.keep_whole(str(node.target), reason)
    for parameter in map(parameter_behind, node.all_input_nodes):
        if parameter is not None:
            flow.keep_whole(str(parameter.target), reason)
    for source in tensor_inputs(node):
        keep_open(flow, source, reason)
    if isinstance(node.meta["shape"], list):
        return [flow.labels.always_open(max(len(shape or ()) - 1, 0), reason) for shape in node.meta["shape"]]
    if node.meta["shape"] is None:
        return None
    return flow.labels.always_open(max(len(node.meta["shape"]) - 1, 0), reason)


def has_many_axes(flow: Flow, node: fx.Node) -> bool:
    """Tell whether the channels of a node's value differ along more than one axis (inside a channel shuffle)."""
    worn = flow.worn.get(node)
    return isinstance(worn, np.ndarray) and len(varying_axes(worn)) > 1


def entry_of(flow: Flow, node: fx.Node) -> fx.Node:
    """Return the tensor with channels along one axis that a chain of views started from.

    The sizes of such views are written for all of its channels, so none can go unless the whole chain is replaced.
    """
    while has_many_axes(flow, node):
        node = tensor_inputs(node)[0]
    return node


def keep_open(flow: Flow, node: fx.Node, reason: str) -> None:
    """Never gate the channels of a node's value."""
    for worn in (flow.worn.get(node), flow.worn.get(entry_of(flow, node))):
        for array in worn if isinstance(worn, list) else [worn]:
            if array is not None:
                flow.labels.keep_open(array, reason)


def kind_of(flow: Flow, node: fx.Node) -> str:
    """Name an operation for a reader."""
    if node.op == "call_module":
        return f"{type(flow.module(node)).__name__} {node.target}"
    return str(getattr(node.target, "__name__", node.target))
