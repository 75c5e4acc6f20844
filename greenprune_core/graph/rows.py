"""Which values of a graph have one row for each image, as gates decide once per image.

Shapes at one batch size do not tell: with a single image, `view(1, n * c, h, w)` is of the shape that it started from.
"""

from typing import Any

import torch
from torch import Tensor, fx

_ROWS = "has_row_per_image"


def note_rows(traced: fx.GraphModule, example_input: Tensor) -> None:
    """Run a graph with shapes on twice as many images, and note on its nodes whose first axis goes over the images."""
    twice = _Counter(traced)
    was_training = [module for module in traced.modules() if module.training]
    traced.eval()
    try:
        with torch.no_grad():
            twice.run(torch.cat([example_input, example_input]))
    except (RuntimeError, TypeError, ValueError, LookupError, AssertionError):
        twice.n_rows.clear()  # written for one batch size: what its shapes say holds
    for module in was_training:
        module.training = True
    n_images, from_input = len(example_input), set[fx.Node]()
    for node in traced.graph.nodes:
        if node.op == "placeholder" or from_input & set(node.all_input_nodes):
            from_input.add(node)
        shape = node.meta["shape"]
        is_alike = node in from_input and isinstance(shape, torch.Size) and shape[:1] == (n_images,)
        node.meta[_ROWS] = is_alike and twice.n_rows.get(node, 2 * n_images) == 2 * n_images


def has_row_per_image(node: fx.Node) -> bool:
    """Tell whether a node's value is one tensor whose first axis goes over the images of the input."""
    return bool(node.meta.get(_ROWS))


def folds_images(node: fx.Node) -> bool:
    """Tell whether a value only looks as if its first axis went over the images."""
    shape = node.meta["shape"]
    images = next(one for one in node.graph.nodes if one.op == "placeholder").meta["shape"]
    return isinstance(shape, torch.Size) and shape[:1] == images[:1] and not has_row_per_image(node)


class _Counter(fx.Interpreter):
    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.n_rows: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.dim():
            self.n_rows[n] = len(value)
        return value
