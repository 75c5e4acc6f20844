"""Stochastic depth by torch's own dropout.

Layers that drop whole images of a branch while training come with many packages, each in its own words. In evaluation
mode they do nothing, so that tracing would lose them, and a class of another package cannot be saved as plain layers.
`Dropout3d` of a tensor with one channel does the same.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_N_ROWS, _N_TRIES = 2048, 8
_MOST_AXES = 4
"""Of the tensor whose images are dropped: with the axis of its one channel it has what `Dropout3d` takes."""


def replace_drop_paths(network: nn.Module, example_input: Tensor) -> None:
    """Replace the layers of a network, in evaluation mode, that drop whole images; in place.

    What drops all images of a batch together, or does not scale the others, is left as it is.
    """
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if is_of_torchvision(module) and getattr(module, "p", None) == 0:  # of the first of many branches
            network.set_submodule(name, nn.Identity().eval())
    named = network.named_modules(remove_duplicate=False)
    found = {name: rate for name, module in named if (rate := _rate_of(module))}
    if not found:
        return
    n_axes: dict[str, set[int]] = {name: set() for name in found}
    handles = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: n_axes[name].add(inputs[0].dim())
        )
        for name in found
    ]
    with torch.no_grad():
        network(example_input.clone())
    for handle in handles:
        handle.remove()
    for name, rate in found.items():
        if len(n_axes[name]) == 1 and (n := n_axes[name].pop()) <= _MOST_AXES:
            network.set_submodule(name, _DropImages(rate, n))


def is_of_torchvision(module: nn.Module) -> bool:
    """Tell whether a layer is torchvision's own; by name, as importing it takes seconds."""
    return type(module).__module__ == "torchvision.ops.stochastic_depth"


class _DropImages(nn.Module):
    """Is traced into, so that only layers of torch stay."""

    def __init__(self, rate: float, n_axes: int) -> None:
        super().__init__()
        self.drop = nn.Dropout3d(rate)
        self.n_more = _MOST_AXES + 1 - n_axes
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.n_more):
            x = x.unsqueeze(1)
        x = self.drop(x)
        for _ in range(self.n_more):
            x = x.squeeze(1)
        return x


def _rate_of(module: nn.Module) -> float | None:
    """Return the rate at which a layer drops images, found by running it; None for what does something else."""
    is_foreign = not type(module).__module__.startswith("torch.nn")
    has_parts = any(True for _ in _parts(module))
    if not is_foreign or has_parts or module._forward_hooks or module._forward_pre_hooks:
        return None
    rates = [value for value in vars(module).values() if isinstance(value, float) and 0 < value < 1]
    twin, rows = copy.deepcopy(module), torch.ones(_N_ROWS, 1, 2, 2, dtype=torch.float64)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            if not rates or not torch.equal(twin.eval()(rows.clone()), rows):
                return None
            for _ in range(_N_TRIES):
                answers = twin.train()(rows.clone())
                rate = next((rate for rate in rates if _are_dropped(answers, rate)), None)
                if rate is not None:
                    return rate
    except Exception:  # noqa: BLE001 (a layer of any kind, given what it was not written for)
        return None
    return None


def _parts(module: nn.Module) -> Iterator[Any]:
    yield from module.children()
    yield from module.parameters()
    yield from module.buffers()


def _are_dropped(answers: Tensor, rate: float) -> bool:
    """Tell whether some images are zero, and all others scaled so that the mean stays."""
    if answers.shape[:1] != (_N_ROWS,):
        return False
    values = answers.flatten(1)
    is_dropped = (values == 0).all(1)
    is_kept = torch.isclose(values, torch.tensor(1 / (1 - rate), dtype=values.dtype), rtol=1e-9).all(1)
    n_dropped = int(is_dropped.sum())
    return bool((is_dropped | is_kept).all()) and 0 < n_dropped < _N_ROWS
