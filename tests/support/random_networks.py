"""Networks drawn at random from what people build networks of: layers, joins, views, pieces of blocks."""

import random
from collections.abc import Callable, Iterator

import torch
from exact_cuts import IMAGES
from torch import Tensor, nn
from torch.nn import functional

Apply = Callable[..., Tensor]


class Step(nn.Module):
    """One piece of a network: layers, and what it does with them and with the values that it reads."""

    def __init__(self, apply: Apply, *layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self._apply_to = apply
        self.layers = nn.ModuleList([layer for layer in layers if isinstance(layer, nn.Module)])
        self.scales = nn.ParameterList([layer for layer in layers if isinstance(layer, nn.Parameter)])

    def forward(self, *values: Tensor) -> Tensor:
        return self._apply_to(*self.layers, *self.scales, *values)


class RandomNetwork(nn.Module):
    """A classifier of 8 x 8 images: five to ten pieces in a chain, some of which read an earlier value too."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        torch.manual_seed(seed)
        self.steps = nn.ModuleList([Step(_through, _conv(3, draw.choice((4, 6, 8))))])
        self.sources: list[tuple[int, ...]] = [(0,)]
        values = [IMAGES[:1].float(), self.steps[0](IMAGES[:1].float())]
        for _ in range(draw.randint(4, 9)):
            self._add(values, *draw.choice(list(_pieces(draw, values))))
        last = len(values) - 1
        self._add(values, next(_blocks(values[last].shape[1], 6)), (last,))  # so that there is something to gate
        self.classify = nn.Linear(values[-1].shape[1], 5)
        for norm in (module for module in self.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.running_mean, norm.running_var = torch.randn(norm.num_features), torch.rand(norm.num_features) + 0.5

    def _add(self, values: list[Tensor], step: Step, sources: tuple[int, ...]) -> None:
        self.steps.append(step)
        self.sources.append(sources)
        values.append(step(*[values[source] for source in sources]))

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for step, sources in zip(self.steps, self.sources, strict=True):
            values.append(step(*[values[source] for source in sources]))
        return self.classify(values[-1].mean((2, 3)))  # type: ignore[no-any-return]


def _pieces(draw: random.Random, values: list[Tensor]) -> Iterator[tuple[Step, tuple[int, ...]]]:
    """Offer every piece that can follow the last value."""
    last, x = len(values) - 1, values[-1]
    c, side = x.shape[1:3]
    width = draw.choice((4, 6, 8))
    for step in _layers(c, width):
        yield step, (last,)
    for step in _blocks(c, width):
        yield step, (last,)
    for step in _views(c, side):
        yield step, (last,)
    for other, value in enumerate(values[1:-1], start=1):
        if value.shape[2] == side:
            yield Step(lambda x, y: torch.cat([x, y], 1)), (last, other)
        if value.shape == x.shape:
            yield Step(lambda x, y: x + y), (last, other)
            yield Step(lambda x, y: y * torch.sigmoid(x)), (last, other)


def _layers(c: int, width: int) -> Iterator[Step]:
    for layer in (_conv(c, width), _conv(c, width, 1), _conv(c, c, groups=c), nn.PReLU(c), nn.GELU()):
        yield Step(_through, layer)
    yield Step(_through, nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(inplace=True)))
    yield Step(lambda layer, x: layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.Linear(c, width))
    if c % 2 == 0:
        yield Step(_through, _conv(c, 8, groups=2))
        yield Step(_through, nn.GroupNorm(2, c))


def _blocks(c: int, width: int) -> Iterator[Step]:
    scale = nn.Parameter(torch.rand(c, 1, 1) + 0.5)
    yield Step(lambda a, b, x: x + b(functional.relu(a(x))), _conv(c, width), _conv(width, c))
    yield Step(lambda a, b, s, x: s * b(torch.tanh(a(x))) + x, _conv(c, width), _conv(width, c), scale)
    yield Step(lambda a, b, x: a(x) + b(x), _conv(c, width), _conv(c, width, 1))
    yield Step(lambda a, x: torch.cat([x, functional.relu(a(x))], 1), _conv(c, width))
    yield Step(lambda a, x: x * torch.sigmoid(a(x)), _conv(c, 1, 1))
    yield Step(
        lambda a, b, x: x * torch.sigmoid(b(functional.relu(a(x.mean((2, 3)))))).view(x.size(0), -1, 1, 1),
        *(nn.Linear(c, 4), nn.Linear(4, c)),
    )


def _views(c: int, side: int) -> Iterator[Step]:
    yield Step(lambda x: x - x.mean((2, 3), keepdim=True))
    yield Step(lambda x: functional.pad(x, (0, 0, 0, 0, 1, 1)))
    yield Step(lambda x: functional.relu(x.flatten(2)).view(x.size(0), -1, x.size(2), x.size(3)))
    if side > 2:
        yield Step(lambda x: functional.max_pool2d(x, 2))
    if side < 8:
        yield Step(lambda x: functional.interpolate(x, scale_factor=2.0))
    if c > 3:
        yield Step(lambda x: x[:, 1:-1])
        yield Step(lambda x: x[:, ::2])
    if c % 2 == 0:
        yield Step(_shuffle)
        yield Step(_gated_linear)


def _through(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)  # type: ignore[no-any-return]


def _shuffle(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def _gated_linear(x: Tensor) -> Tensor:
    value, gate = x.chunk(2, 1)
    return value * torch.sigmoid(gate)


def _conv(n_in: int, n_out: int, size: int = 3, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, size, padding=size // 2, groups=groups)
