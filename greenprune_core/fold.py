"""Folding batch norms into the layers before them: a network for inference only, with fewer passes over its tensors."""

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import fusion

from greenprune_core.errors import VerificationError
from greenprune_core.evaluation import exact_outputs
from greenprune_core.graph.trace import copy_network
from greenprune_core.graph.tracer import trace_graph

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norms(network: nn.Module, example_input: Tensor, tolerance: float = 1e-4) -> fx.GraphModule:
    """Return a copy for inference whose batch norms are part of the convolutions and linear layers before them.

    A batch norm that follows a layer in evaluation mode is linear in its output, so both are one layer. What stands
    elsewhere stays. The copy is proved equal on the example; it is not for training, as its statistics are gone.

    Args:
        network: of `extract`, `train_one_pass` or `load_subnetwork`, or any that torch.fx can trace; left as it was.
        example_input: a batch of inputs, by which the outputs are compared.
        tolerance: largest difference of the outputs, relative to the largest output.

    Raises:
        UnsupportedNetworkError: the network cannot be traced.
        VerificationError: the outputs differ by more than rounding.
    """
    traced = network if isinstance(network, fx.GraphModule) else trace_graph(copy_network(network).eval())
    folded = copy.deepcopy(traced).eval()
    calls = [str(node.target) for node in folded.graph.nodes if node.op == "call_module"]
    for node in list(folded.graph.nodes):
        layer = _layer_before(folded, node, calls)
        if layer is not None:
            target = str(layer.target)
            folded.set_submodule(target, _fused(folded.get_submodule(target), folded.get_submodule(str(node.target))))
            node.replace_all_uses_with(layer)
            folded.graph.erase_node(node)
    folded.delete_all_unused_submodules()
    folded.graph.lint()
    folded.recompile()
    _prove(traced, folded, example_input, tolerance)
    return folded


def _layer_before(network: fx.GraphModule, node: fx.Node, calls: list[str]) -> fx.Node | None:
    """Return the node of the layer that a batch norm can be folded into, if there is one."""
    if node.op != "call_module" or not isinstance(node.args[0] if node.args else None, fx.Node):
        return None
    layer: Any = node.args[0]
    norm = network.get_submodule(str(node.target))
    if type(norm) not in _NORMS or norm.running_mean is None or layer.op != "call_module" or len(layer.users) > 1:
        return None
    module = network.get_submodule(str(layer.target))
    is_known = type(module) in (*_CONVOLUTIONS, nn.Linear) or (type(module) in _TRANSPOSED and module.groups == 1)
    n_channels = getattr(module, "out_channels", getattr(module, "out_features", None))
    has_hooks = any(one._forward_hooks or one._forward_pre_hooks for one in (norm, module))
    is_shared = calls.count(str(layer.target)) > 1 or calls.count(str(node.target)) > 1
    return layer if is_known and n_channels == norm.num_features and not has_hooks and not is_shared else None


def _fused(layer: Any, norm: Any) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return fusion.fuse_linear_bn_eval(layer, norm)
    fused: nn.Module = fusion.fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, _TRANSPOSED))
    return fused


def _prove(network: nn.Module, folded: nn.Module, example_input: Tensor, tolerance: float) -> None:
    expected, got = exact_outputs(network, example_input), exact_outputs(folded, example_input)
    difference, scale = float((expected - got).abs().max()), float(expected.abs().max())
    if not difference <= tolerance * max(scale, torch.finfo(expected.dtype).tiny):
        raise VerificationError(
            f"folding batch norms changes outputs by rounding only (at most {tolerance:g} of {scale:g}), but they "
            f"differ by {difference:g}: norms here subtract large means; fold in float64, or use the network as it is"
        )
