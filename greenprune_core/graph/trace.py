"""A network as a graph: a deep copy traced with torch.fx, with the shape of every value on an example input.

The copy is traced in evaluation mode, so heads that exist in training only (GoogLeNet's auxiliary classifiers) drop
out, and functional dropout is turned into a module that follows `train()` and `eval()`.
"""

import copy
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from greenprune_core.errors import ConfigError, UnsupportedNetworkError
from greenprune_core.graph.attention import write_out_attention
from greenprune_core.graph.calls import write_by_position
from greenprune_core.graph.drop_paths import replace_drop_paths
from greenprune_core.graph.gradients import detach_results, runs_without_gradients
from greenprune_core.graph.in_place import hand_on_values
from greenprune_core.graph.parameter_views import write_out_parameter_views
from greenprune_core.graph.plain_layers import rename_derived_layers, restore_layers
from greenprune_core.graph.randomness import check_randomness_is_kept
from greenprune_core.graph.rows import note_rows
from greenprune_core.graph.tracer import first_line, trace_graph

_DROPOUTS: dict[Any, type[nn.Module]] = {
    torch.dropout: nn.Dropout,
    nn.functional.dropout: nn.Dropout,
    nn.functional.dropout1d: nn.Dropout1d,
    nn.functional.dropout2d: nn.Dropout2d,
    nn.functional.dropout3d: nn.Dropout3d,
    nn.functional.alpha_dropout: nn.AlphaDropout,
    nn.functional.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


_WRAPPERS = {
    "OptimizedModule": "its ._orig_mod, and compile the gated network",
    "DataParallel": "its .module",
    "DistributedDataParallel": "its .module",
}
_DYNAMIC = ("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive")
"""Operations whose output is as long as the data say."""


def trace(network: nn.Module, example_input: Tensor) -> fx.GraphModule:
    """Trace a deep copy of a network; the given one is left as it was.

    Every node of the result carries `meta["shape"]` (the shape of a tensor value, a list of them for a tuple, else
    None), `meta["dtype"]`, and `meta["value"]` for values that are no tensors.

    Args:
        network: any module whose control flow does not depend on the data.
        example_input: a batch of at least one input, shape (N, C, H, W) or whatever the network takes.

    Raises:
        UnsupportedNetworkError: the control flow depends on the data, the network takes several inputs, or it draws at
            random in a way that the graph would not.
        ConfigError: the example input has the wrong type, shape or dtype.
    """
    _check_eager(network)
    _check_example(network, example_input)
    clone = copy_network(network)
    modes = {name: module.training for name, module in clone.named_modules()}
    clone.eval()
    _run_once(clone, example_input)
    answer = _answer(clone, example_input)  # before the rewriting, which changes layers of the clone
    rename_derived_layers(clone)
    replace_drop_paths(clone, example_input)
    traced = trace_graph(clone)
    if runs_without_gradients(traced):
        record_shapes(traced, example_input)
        detach_results(traced)
    restore_layers(traced, clone)
    hand_on_values(traced, example_input)
    write_by_position(traced)
    _drop_dead_code(traced)
    _replace_functional_dropout(traced)
    record_shapes(traced, example_input)  # attention is written out by the axes of what it reads
    write_out_attention(traced)
    _check_same(answer, traced, example_input)
    check_randomness_is_kept(clone, traced, example_input)
    record_shapes(traced, example_input)
    write_out_parameter_views(traced)
    note_rows(traced, example_input)
    _check_shapes_are_fixed(traced)
    for name, module in traced.named_modules():
        module.training = modes.get(name, network.training)
    return traced


def copy_network(network: nn.Module) -> nn.Module:
    """Return a deep copy.

    Raises:
        UnsupportedNetworkError: it holds a tensor that was computed, or will hold one after a step of training, which
            torch does not copy.
    """
    _check_weights_are_no_results(network)
    try:
        return copy.deepcopy(network)
    except RuntimeError as error:
        raise UnsupportedNetworkError(
            f"a network is copied before it is gated, but copying {type(network).__name__} stopped with: "
            f"{first_line(error)}; instead of torch.nn.utils.weight_norm use "
            "torch.nn.utils.parametrizations.weight_norm, and keep no computed tensor in a layer"
        ) from error


def record_shapes(traced: fx.GraphModule, example_input: Tensor) -> None:
    """Run the graph once on the example, without gradients, and note shapes, dtypes and plain values on its nodes."""
    modes = [(module, module.training) for module in traced.modules()]
    traced.eval()
    with torch.no_grad():
        _Recorder(traced).run(example_input.clone())
    for module, mode in modes:
        module.training = mode


def is_tensor(node: fx.Node) -> bool:
    """Tell whether the value of a node is one tensor."""
    return isinstance(node.meta.get("shape"), torch.Size)


def replace_by_constant(node: fx.Node, value: Any) -> None:
    """Give the readers of a node a value that is no node."""
    for user in list(node.users):
        user.args = fx.node.map_arg(user.args, lambda one: value if one is node else one)
        user.kwargs = fx.node.map_arg(user.kwargs, lambda one: value if one is node else one)


class _Recorder(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        n.meta["shape"], n.meta["dtype"], n.meta["value"] = None, None, None
        if isinstance(value, Tensor):
            n.meta["shape"], n.meta["dtype"] = value.shape, value.dtype
        elif isinstance(value, (tuple, list)) and any(isinstance(part, Tensor) for part in value):
            n.meta["shape"] = [part.shape if isinstance(part, Tensor) else None for part in value]
            n.meta["dtype"] = next(part.dtype for part in value if isinstance(part, Tensor))
        else:
            n.meta["value"] = value
        return value


def _check_eager(network: nn.Module) -> None:
    kind = type(network).__name__
    inner = "the module that was scripted" if isinstance(network, torch.jit.ScriptModule) else _WRAPPERS.get(kind)
    if inner is not None:
        raise UnsupportedNetworkError(f"a network is traced before it is wrapped, but got {kind}; pass {inner}")


def _check_weights_are_no_results(network: nn.Module) -> None:
    """Refuse what can be copied now, and not after a step of training; the other norm of old is refused by copying."""
    for name, module in network.named_modules():
        for hook in module._forward_pre_hooks.values():
            if type(hook).__module__ == "torch.nn.utils.spectral_norm":
                raise UnsupportedNetworkError(
                    f"a network is copied while it is trained, but {name} computes its weights by "
                    "torch.nn.utils.spectral_norm, and torch copies none that were computed; use "
                    "torch.nn.utils.parametrizations.spectral_norm"
                )


def _check_example(network: nn.Module, example_input: Tensor) -> None:
    if not isinstance(example_input, Tensor):
        raise ConfigError(
            f"the example input is one tensor, but got {type(example_input).__name__}; pass a batch such as "
            "torch.zeros(1, 3, 32, 32)"
        )
    if example_input.dim() < 2 or example_input.shape[0] < 1:
        raise ConfigError(
            f"the example input is a batch of at least one input, but got shape {tuple(example_input.shape)}; add the "
            "batch axis with unsqueeze(0)"
        )
    first = next((p for p in network.parameters() if p.is_floating_point()), None)
    if first is None:
        raise UnsupportedNetworkError(
            f"a network that is gated has weights, but {type(network).__name__} has no parameter; pass another network"
        )
    if first.is_meta or example_input.is_meta:
        raise ConfigError(
            f"a network that is gated has its weights in memory, but those of {type(network).__name__} or the example "
            "input are on the device meta; build them elsewhere, or give weights by to_empty()"
        )
    if example_input.is_floating_point() and example_input.dtype != first.dtype:
        raise ConfigError(
            f"the example input has the dtype of the weights ({first.dtype}), but got {example_input.dtype}; convert "
            f"it with .to({first.dtype})"
        )


def _run_once(network: nn.Module, example_input: Tensor) -> None:
    try:
        with torch.no_grad():
            output = network(example_input.clone())
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        raise ConfigError(
            f"the network runs on the example input, but with shape {tuple(example_input.shape)} and dtype "
            f"{example_input.dtype} it raised {type(error).__name__}: {first_line(error)}; pass an example of the "
            "right shape and dtype"
        ) from error
    if not isinstance(output, Tensor):
        raise UnsupportedNetworkError(
            f"the network returns one tensor in evaluation mode, but got {type(output).__name__}; wrap it so that it "
            "returns its logits"
        )


def _check_shapes_are_fixed(traced: fx.GraphModule) -> None:
    for node in traced.graph.nodes:
        name = str(getattr(node.target, "__name__", node.target))
        if node.op not in ("call_function", "call_method"):
            continue
        if name in _DYNAMIC or (name == "getitem" and _is_chosen_by_data(node.args[1])):
            raise UnsupportedNetworkError(
                f"shapes in a network do not depend on its data, but {name} ({node.name}) makes one that does; "
                "multiply by a mask instead, or move it out of forward"
            )


def _is_chosen_by_data(index: Any) -> bool:
    """Tell whether an index holds a mask, or a slice that ends at a number which a tensor holds."""
    for part in index if isinstance(index, tuple | list) else (index,):
        if isinstance(part, fx.Node) and is_tensor(part) and part.meta["dtype"] == torch.bool:
            return True
        ends = (part.start, part.stop, part.step) if isinstance(part, slice) else ()
        if any(isinstance(end, fx.Node) and is_tensor(end) for end in ends):
            return True
    return False


@torch.no_grad()
def _answer(network: nn.Module, example_input: Tensor) -> Tensor:
    """Run on the example; what is random draws the same at each call."""
    devices = [example_input.device] if example_input.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        answer: Tensor = network.eval()(example_input.clone())
    return answer.double()


def _check_same(expected: Tensor, traced: fx.GraphModule, example_input: Tensor) -> None:
    """Refuse a graph that is not the network: hooks on the network itself, numbers that Python draws in forward."""
    got = _answer(traced, example_input)
    scale = float(expected.nan_to_num(0, 0, 0).abs().max()) if expected.numel() else 0.0
    precision = torch.finfo(next(p.dtype for p in traced.parameters() if p.is_floating_point())).eps
    is_same = expected.shape == got.shape and torch.allclose(
        got, expected, rtol=0, atol=scale * precision**0.5, equal_nan=True
    )
    if not is_same:
        raise UnsupportedNetworkError(
            f"a network answers alike when it is traced, but {type(traced).__name__} does not; hooks on the network "
            "itself, `x += y` where `x` is read by another name too, and numbers that forward draws outside of torch "
            "are not followed: move hooks and draws into layers and write `x = x + y`"
        )


def _drop_dead_code(traced: fx.GraphModule) -> None:
    """Leave out what nobody reads, assertions too: it would keep closed branches, at a cost that is not expected."""
    for node in reversed(list(traced.graph.nodes)):
        if node.op not in ("placeholder", "output") and not node.users:
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()


def _replace_functional_dropout(traced: fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        kind = _DROPOUTS.get(node.target) if node.op == "call_function" else None
        if kind is None:
            continue
        arguments = dict(zip(("input", "p", "training", "inplace"), node.args, strict=False)) | dict(node.kwargs)
        if arguments.get("training", arguments.get("train", True)):
            continue  # always on, also in evaluation: as its author wrote it
        name = f"{node.name}_module"
        traced.add_submodule(name, kind(arguments.get("p", 0.5)))
        with traced.graph.inserting_before(node):
            module = traced.graph.call_module(name, (arguments["input"],))
        node.replace_all_uses_with(module)
        traced.graph.erase_node(node)
    traced.recompile()


ADDITIONS = (operator.add, torch.add, "add")
"""Targets of the nodes that add two tensors: where residual branches end."""
