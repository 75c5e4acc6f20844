"""What one inference of a network costs: multiply-accumulates, parameters and bytes, and what was not counted.

The network is run once on an example under a `TorchDispatchMode`, which sees every ATen operator with its tensors:
whatever `nn.Module` computes it, nothing has to be registered or traced. Activations are charged as the operators
stand, each reading its inputs and writing its output once: no fusion is assumed.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from greenprune_core.cost.operators import ADDRESSED, Kind, work_of
from greenprune_core.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatorCost:
    """One call of one operator, per image; weights are charged once per call, whatever the batch."""

    operator: str
    """Name under torch.ops, e.g. aten.convolution."""
    place: str
    """The module that called it (its name in the network), or the node of a traced graph."""
    kind: Kind
    dtype: str
    """Type of the values computed, e.g. float32."""
    macs: int
    element_ops: int
    matrix_bytes: int
    """Parameters and buffers of two or more dimensions that are read."""
    vector_bytes: int
    """Parameters and buffers of one dimension that are read: biases, scales, running statistics."""
    read_bytes: int
    written_bytes: int
    n_groups: int = 1
    channels: tuple[int, int] = (0, 0)
    """Channels that a convolution or product reads and makes; (0, 0) for what mixes none."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of parameters and buffers read by this call."""
        return self.matrix_bytes + self.vector_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of one inference (one image), whatever the batch size of the example."""

    operators: tuple[OperatorCost, ...]
    params: int
    """Values in the parameters, shared ones once; buffers are none."""
    not_counted: dict[str, int]
    """Operators whose arithmetic is unknown, with the number of calls; the bytes they move are in the totals."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions, matrix products and attention."""
        return sum(operator.macs for operator in self.operators)

    @property
    def element_ops(self) -> int:
        """Operations of norms, activations, poolings and additions, about one addition each."""
        return sum(operator.element_ops for operator in self.operators)

    @property
    def weight_bytes(self) -> int:
        """Bytes of parameters and buffers read in one pass over a batch of any size."""
        return sum(operator.weight_bytes for operator in self.operators)

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations read and written."""
        return sum(operator.read_bytes + operator.written_bytes for operator in self.operators)

    @property
    def dtype(self) -> str:
        """Type in which most of the multiply-accumulates are computed."""
        weights: Counter[str] = Counter()
        for operator in self.operators:
            weights[operator.dtype] += operator.macs
        return weights.most_common(1)[0][0] if weights else "float32"


def count_cost(network: nn.Module, example_input: Tensor) -> Cost:
    """Count what one inference costs, by running the network once in evaluation mode.

    Args:
        network: any module that maps one tensor to its outputs; it is left as it was.
        example_input: Tensor[N, ...], on the network's device, or on `meta`, where nothing is computed or allocated.

    Returns:
        Counts per image. Operators that work once for the whole batch are charged to an image by their N-th part,
        rounded up; N = 1 is exact.

    Raises:
        ConfigError: the example is empty.
    """
    if example_input.dim() == 0 or example_input.numel() == 0:
        shape = tuple(example_input.shape)
        raise ConfigError(f"an example input holds at least one image, but got shape {shape}; pass a tensor [1, ...]")
    weights = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    if example_input.is_meta:
        weights = {name: weight.to("meta") for name, weight in weights.items()}
    counter = OperatorCounter(weights.values(), batch_size=example_input.shape[0])
    with evaluating(network), _places(network, counter), torch.no_grad(), counter:
        if example_input.is_meta:
            functional_call(network, weights, (example_input,))
        else:
            network(example_input)
    return counter.cost(sum(parameter.numel() for parameter in network.parameters()))


class OperatorCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects an `OperatorCost` for every ATen operator that runs inside it.

    Args:
        weights: tensors that count as weights; all others are activations.
        batch_size: images in the batch, to divide by.
    """

    def __init__(self, weights: Any, batch_size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.place = ""
        self.operators: list[OperatorCost] = []
        self._storages = {_storage(weight) for weight in weights}
        self._batch_size = batch_size
        self._not_counted: Counter[str] = Counter()

    def cost(self, params: int) -> Cost:
        """Return all that was collected so far."""
        return Cost(operators=tuple(self.operators), params=params, not_counted=dict(self._not_counted))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "aten" and func._can_decompose():
            # inference mode hands over composites whole; their parts are what the table knows
            with self:
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        self._record(func, args, kwargs, result)
        return result

    def _record(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        outputs = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        work = work_of(func, args, outputs) if outputs else None
        if work is None:
            return
        if work.kind == "unknown":
            self._not_counted[str(func.overloadpacket)] += 1
        data = args[:2] if func.overloadpacket in ADDRESSED else (args, kwargs)
        inputs = [value for value in tree_leaves(data) if isinstance(value, Tensor)]
        weights = [value for value in inputs if _storage(value) in self._storages]
        activations = [value for value in inputs if _storage(value) not in self._storages]
        self.operators.append(
            OperatorCost(
                operator=str(func.overloadpacket),
                place=self.place,
                kind=work.kind,
                dtype=str(outputs[0].dtype).removeprefix("torch."),
                macs=self._per_image(work.macs),
                element_ops=self._per_image(work.element_ops),
                matrix_bytes=sum(_bytes(value) for value in weights if value.dim() >= 2),
                vector_bytes=sum(_bytes(value) for value in weights if value.dim() < 2),
                read_bytes=self._per_image(sum(map(_bytes, activations))),
                # further outputs (indices of a pooling, statistics of a norm) serve training only
                written_bytes=self._per_image(sum(map(_bytes, outputs[:1]))),
                n_groups=work.n_groups,
                channels=work.channels,
            )
        )

    def _per_image(self, total: int) -> int:
        return -(-total // self._batch_size)


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, and back into its own mode afterwards."""
    was_training = [module for module in network.modules() if module.training]
    # fused attention kernels hide their matrix products from the counter
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    network.eval()
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module in was_training:
            module.training = True


@contextlib.contextmanager
def _places(network: nn.Module, counter: OperatorCounter) -> Iterator[None]:
    """Tell the counter which module is running."""

    def enter(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            counter.place = name

        return hook

    handles = [module.register_forward_pre_hook(enter(name)) for name, module in network.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _storage(value: Tensor) -> int:
    """Identity of the memory behind a tensor, the same for all views of it, on `meta` as well."""
    return int(value.untyped_storage()._cdata)


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()
