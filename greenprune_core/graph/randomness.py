"""What a network draws at random while training, which a trace in evaluation mode loses unless a layer draws it.

Dropouts of torch, as layers and as functions, and layers that drop whole images are followed. Noise that forward adds
by itself, and dropout inside a function of attention, are not: the gated network would train without them.
"""

import copy
import inspect
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from greenprune_core.errors import UnsupportedNetworkError
from greenprune_core.graph.tracer import TRACING_ERRORS, trace_graph

_DRAWS = frozenset(
    [
        "rand",
        "rand_like",
        "randn",
        "randn_like",
        "randint",
        "randint_like",
        "randperm",
        "bernoulli",
        "bernoulli_",
        "normal",
        "normal_",
        "uniform_",
        "exponential_",
        "random_",
        "multinomial",
        "poisson",
        "feature_dropout",
        "rrelu",
        "gumbel_softmax",
        "stochastic_depth",
        "drop_block2d",
        "drop_block3d",
    ]
)
"""Functions and methods that draw; those with a parameter `training` where it is True and no rate is 0."""

_SEEDS = (0, 1)


def check_randomness_is_kept(network: nn.Module, traced: fx.GraphModule, example_input: Tensor) -> None:
    """Compare what a network and its graph draw in training mode; both are left as they were.

    Raises:
        UnsupportedNetworkError: the graph lacks some of it.
    """
    if not any(_reads_its_mode(type(module)) for module in network.modules()):
        return
    lost = _draws_of_training(network) - _draws(traced.graph.nodes)
    if not lost and (not _is_random(network, example_input) or _is_random(traced, example_input)):
        return
    raise UnsupportedNetworkError(
        "what a network draws at random while training is drawn by layers of torch, but forward of "
        f"{type(network).__name__} draws by itself where self.training is True"
        f"{' (' + ', '.join(sorted(lost)) + ')' if lost else ''}; use torch.nn.Dropout or its kin, no dropout_p in "
        "attention, and add noise to the images"
    )


def _reads_its_mode(kind: type[nn.Module]) -> bool:
    """Tell whether a class that is not torch's own asks whether it is in training."""
    own = [base for base in kind.__mro__ if not base.__module__.startswith("torch.")]
    functions = [one for base in own for one in vars(base).values() if inspect.isfunction(one)]
    return any("training" in function.__code__.co_names for function in functions)


def _draws_of_training(network: nn.Module) -> Counter[str]:
    try:
        return _draws(trace_graph(copy.deepcopy(network).train()).graph.nodes)
    except TRACING_ERRORS:
        return Counter()


def _draws(nodes: Iterable[fx.Node]) -> Counter[str]:
    names = (_draw(node) for node in nodes if node.op in ("call_function", "call_method"))
    return Counter(name for name in names if name is not None)


def _draw(node: fx.Node) -> str | None:
    name, target = str(getattr(node.target, "__name__", node.target)), node.target
    if target is functional.scaled_dot_product_attention:
        rate = node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0)
        return f"{name} with dropout_p" if rate else None
    if not inspect.isfunction(target) or "training" not in inspect.signature(target).parameters:
        return name if name in _DRAWS else None
    bound = inspect.signature(target).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    is_followed = target.__module__ == functional.__name__ and "dropout" in name
    if is_followed or not bound.arguments["training"]:
        return None
    rates = [value for key, value in bound.arguments.items() if "drop" in key or key == "p"]
    return name if (any(rates) if rates else name in _DRAWS) else None


@torch.no_grad()
def _is_random(network: nn.Module, example_input: Tensor) -> bool:
    """Tell whether two runs in training mode differ; no, where it does not run on two images in that mode."""
    twin, images = copy.deepcopy(network).train(), torch.cat([example_input, example_input])
    devices = [example_input.device] if example_input.device.type == "cuda" else []
    answers = []
    for seed in _SEEDS:
        for tensor, value in zip(_tensors(twin), _tensors(network), strict=True):
            tensor.copy_(value)  # batch statistics are not what differs
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            try:
                answers.append(_first_tensor(twin(images.clone())))
            except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError):
                return False
    return not torch.equal(answers[0], answers[1])


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _first_tensor(answer: Any) -> Tensor:
    while not isinstance(answer, Tensor):  # heads for training only come as a tuple
        answer = next(iter(answer.values() if isinstance(answer, dict) else answer), None)
    return answer
