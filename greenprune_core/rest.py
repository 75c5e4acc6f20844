"""Steps at which the gates rest: the weights learn in the network cut to what the gates agree on so far.

Gates change slowly, so they need not look at every batch; and what they agree to close need not be computed between two
looks. A step of a rest is the step of the gated network held at that mask, at the price of the cut network: its weights
are parts of the dense weights, taken anew at each step, so that the dense weights get the gradients.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from greenprune_core.cost import Cost, count_cost
from greenprune_core.gates import GatedNetwork
from greenprune_core.graph.cut import cut
from greenprune_core.graph.resize import Pairs


@dataclass
class RestSpent:
    """What was trained between looks under one mask."""

    kept_V: Tensor
    """The mask, bool, on the CPU."""
    cost: Cost
    """Of one forward pass of the network cut by it."""
    n_trained: int = 0
    """Images passed forward and backward."""


class Rest(ABC):
    """The network as it is trained while its gates rest.

    Attributes:
        kept_V: the mask, bool, shape (n_gates,).
        cost: of one forward pass.
    """

    kept_V: Tensor
    cost: Cost

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits of a batch in training mode, differentiable by the dense weights.

        The dense network's batch statistics follow for the channels that are kept.
        """


class CompiledRest(Rest):
    """The gated network with its gates held: compiled once, where each cut network would be compiled anew.

    Args:
        gated: the network, in dynamic mode between two calls.
        kept_V: its mask.
        run: the network, compiled.
        cost: of the dense network: nothing is smaller here, and held gates compute nothing.
    """

    def __init__(self, gated: GatedNetwork, kept_V: Tensor, run: Callable[[Tensor], Tensor], cost: Cost) -> None:
        self.kept_V, self.cost = kept_V, cost
        self._gated, self._run = gated, run
        on_device_V = kept_V.to(next(gated.parameters()).device)
        self._masks = {name: on_device_V[place] for name, place in gated.group_slices.items()}

    def __call__(self, images: Tensor) -> Tensor:
        """See `Rest`."""
        self._gated.freeze(self._masks)
        try:
            return self._run(images)
        finally:
            self._gated.release_gates()


class CutRest(Rest):
    """A gated network cut by a mask, on loan from its dense weights.

    Args:
        gated: the network; not changed.
        kept_V: its mask, bool, shape (n_gates,).
        example_input: one image, by which the cut network's cost is counted.
    """

    def __init__(self, gated: GatedNetwork, kept_V: Tensor, example_input: Tensor) -> None:
        self.kept_V = kept_V
        self._static, slices = cut(gated.structure, kept_V.cpu().numpy())
        self._static.to(memory_format=torch.contiguous_format)  # as the other networks' costs are counted
        device = example_input.device
        with torch.autocast(device.type, enabled=False):  # the other networks' costs are counted without casts too
            self.cost = count_cost(self._static, example_input)
        on_device = {name: tuple((axis, kept.to(device)) for axis, kept in pairs) for name, pairs in slices.items()}
        dense = gated.network
        self._names = [name for name, _ in self._static.named_parameters()]
        self._dense = [dense.get_parameter(name) for name in self._names]
        self._pairs = [on_device[name] for name in self._names]
        known = dict(dense.named_buffers())
        self._statistics = [
            (name, known[name], on_device[name]) for name, _ in self._static.named_buffers() if name in known
        ]
        for parameter in self._static.requires_grad_(False).parameters():
            parameter.data = parameter.data.new_empty(0)  # each call brings its weights

    def __call__(self, images: Tensor) -> Tensor:
        """See `Rest`."""
        self._static.train()
        weights = dict(zip(self._names, _Parts.apply(self._pairs, *self._dense), strict=True))
        # looks change the dense network's statistics too, so these are taken anew as well
        statistics = {name: _part(dense, pairs) for name, dense, pairs in self._statistics}
        logits = functional_call(self._static, weights | statistics, (images,))
        for name, dense, pairs in self._statistics:
            for axis, kept in pairs[:1]:  # without pairs it is the dense tensor itself
                dense.index_copy_(axis, kept, statistics[name])
        return logits  # type: ignore[no-any-return]


class _Parts(torch.autograd.Function):
    """The kept parts of many tensors; backwards, the rest of each gradient is zero."""

    @staticmethod
    def forward(ctx: Any, pairs: Sequence[Pairs], *dense: Tensor) -> tuple[Tensor, ...]:
        ctx.pairs, ctx.shapes = pairs, [tensor.shape for tensor in dense]
        return tuple(_part(tensor, kept) for tensor, kept in zip(dense, pairs, strict=True))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return None, *(
            _whole(gradient, kept, shape)
            for gradient, kept, shape in zip(gradients, ctx.pairs, ctx.shapes, strict=True)
        )


def _part(tensor: Tensor, pairs: Pairs) -> Tensor:
    if not pairs:
        return tensor.view_as(tensor)
    for axis, kept in pairs:
        tensor = tensor.index_select(axis, kept)
    return tensor


def _whole(part: Tensor, pairs: Pairs, shape: torch.Size) -> Tensor:
    for axis, kept in reversed(pairs):
        size = [*part.shape]
        size[axis] = shape[axis]
        part = part.new_zeros(size).index_copy_(axis, kept, part)
    return part
