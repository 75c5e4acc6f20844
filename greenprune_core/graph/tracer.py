"""torch.fx's tracer, with what a graph that is gated has to keep of a network."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError
from torch.nn.modules.batchnorm import _BatchNorm

from greenprune_core.errors import UnsupportedNetworkError
from greenprune_core.graph.drop_paths import is_of_torchvision
from greenprune_core.graph.gradients import mark_without_gradients

TRACING_ERRORS = (
    *(TraceError, TypeError, RuntimeError, ValueError, LookupError, AttributeError, AssertionError),
    NameError,  # a layer that is in a list of Python's own
)
"""What tracing a network that cannot be traced raises."""


def trace_graph(network: nn.Module) -> fx.GraphModule:
    """Trace a network as it is, in the mode that it is in.

    Raises:
        UnsupportedNetworkError: it cannot be traced.
    """
    name = type(network).__name__
    try:
        with axes_unchecked(network):
            graph = _Tracer().trace(network)
    except TRACING_ERRORS as error:
        raise UnsupportedNetworkError(
            f"the control flow and the shapes of a network do not depend on its data, but tracing {name} stopped with: "
            f"{first_line(error)}; {_way_out(network, error)}"
        ) from error
    return fx.GraphModule(network, graph, class_name=name)


@contextlib.contextmanager
def axes_unchecked(network: nn.Module) -> Iterator[None]:
    """Let forward of torch's batch norms be traced in classes derived from them; it first looks at the axes."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    derived = [module for module in norms if not type(module).__module__.startswith("torch.")]
    for module in derived:
        vars(module)["_check_input_dim"] = lambda _: None
    try:
        yield
    finally:
        for module in derived:
            del vars(module)["_check_input_dim"]


def first_line(error: BaseException) -> str:
    """Return the first line of a message, or what kind of error it is where there is none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        super().__init__()
        self._has_gradients = torch.is_grad_enabled()

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        if self._has_gradients and not torch.is_grad_enabled():
            mark_without_gradients(node)
        return node

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # StochasticDepth reads `self.training` in its forward, which tracing would freeze.
        if is_of_torchvision(m):
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # `self.layers[:3](x)` makes a container that the network does not know of, of layers that it does
        if type(m) is nn.Sequential and all(m is not known for known in self.root.modules()):
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: dict[str, Any] | tuple[Any, ...] | None = None
    ) -> tuple[Any, list[Any]]:
        # The images are the only input: further parameters of forward have their defaults, which may decide its way.
        name = next(iter(list(inspect.signature(root_fn).parameters)[1:]), "input")
        return root_fn, [self.root, self.create_proxy("placeholder", name, (), {})]


class _BufferTracer(_Tracer):
    """Follows buffers too. Only to find out why a trace stopped: a cut network that does so comes from no pickle."""

    proxy_buffer_attributes = True


def _way_out(network: nn.Module, error: BaseException) -> str:
    if isinstance(error, NameError):
        return "hold layers as attributes or in a torch.nn.ModuleList, and no list of Python's own"
    if "cannot be iterated" in str(error):
        return "name sizes one by one (n, c, h, w = x.shape), and write no *x.shape"
    try:
        _BufferTracer().trace(network)
    except TRACING_ERRORS:
        return "move that decision out of forward"
    return "a buffer is viewed by sizes of the images: make it a parameter with requires_grad=False"
