"""Networks as people write them: functional calls, shared layers, slices, parameters of their own, odd joins."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class SharedBlock(nn.Module):
    """One block runs three times under two names, twice of it in a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.alias = self.block
        self.out, self.classify = nn.Conv2d(8, 6, 1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block(x)
        x = x + self.alias(x)
        return self.classify(functional.relu(self.out(x)).mean(dim=(2, 3)))


class SharedBranch(nn.Module):
    """Two residual branches are one and the same layer, so it stays while one of them does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.classify = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + functional.relu(self.block(x))
        x = x + functional.relu(self.block(x))
        return self.classify(x.mean((2, 3)))


class Slices(nn.Module):
    """Channels taken by steps, from the end, by an ellipsis, and one of them by its number."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.d, self.classify = nn.Conv2d(13, 6, 1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        joined = self.b(functional.relu(x[:, ::2])) + self.c(functional.relu(x[:, -4:, ...])) + self.d(_with_one(x))
        return self.classify(joined.mean([2, 3]))


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x[:, 3:4], x], 1)


class Expansion(nn.Module):
    """A vector per image, expanded over the image by numbers that are written out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.vector, self.c = nn.Conv2d(3, 8, 1), nn.Linear(8, 8), nn.Conv2d(8, 6, 1)
        self.classify = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        v = self.vector(y.mean((2, 3))).reshape(-1, 8, 1, 1).expand(-1, 8, 16, 16)
        return self.classify(self.c(functional.relu(y * v)).mean((2, 3)))


class OwnParameters(nn.Module):
    """A functional convolution, and parameters that are viewed, indexed and broadcast."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 3, 3, 3) * 0.2)
        self.gain, self.shift = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(6))
        self.b, self.c, self.d = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.classify = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(functional.conv2d(x, self.kernel, padding=1)) * self.gain[None, :, None, None]
        x = functional.relu(self.b(x)) + self.shift.view(1, -1, 1, 1)
        return self.classify(self.d(functional.relu(self.c(x))).mean((2, 3)))


class LayersLast(nn.Module):
    """A ConvNeXt block by hand: channels move to the last axis, and a vector scales them there."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.inner, self.scale = nn.Parameter(torch.rand(16)), nn.Parameter(torch.rand(8))
        self.classify = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = functional.gelu(self.up(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))) * self.inner
        return self.classify((x + (self.down(y) * self.scale).permute(0, 3, 1, 2)).mean((2, 3)))


class Norms(nn.Module):
    """Group, layer, instance and local response norms, and a functional dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.group = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8)
        self.b, self.instance = nn.Conv2d(8, 12, 3, padding=2, dilation=2), nn.InstanceNorm2d(12, affine=True)
        self.c, self.layer = nn.Conv2d(12, 6, 3, stride=2), nn.LayerNorm([6, 7, 7])
        self.d, self.response, self.classify = nn.Conv2d(6, 6, 1), nn.LocalResponseNorm(2), nn.Linear(6 * 49, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.group(self.a(x)))
        x = functional.leaky_relu(self.instance(self.b(x)))
        x = self.response(self.d(functional.relu(self.layer(self.c(x)))))
        return self.classify(functional.dropout(x.reshape(x.shape[0], -1), 0.3, self.training))


class Transposed(nn.Module):
    """Grouped and plain transposed convolutions, circular padding, a U-shaped join of gated and ungated channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 12, 4, stride=2, padding=1, groups=4, bias=False)
        self.norm, self.wide = nn.BatchNorm2d(12), nn.ConvTranspose2d(12, 6, 3, padding=1)
        self.c = nn.Conv2d(9, 6, 3, padding=3, dilation=3, padding_mode="circular")
        self.classify = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm(self.up(functional.relu(self.a(x)))))
        y = torch.cat((x, functional.elu(self.wide(y))), 1)
        return self.classify(functional.relu(self.c(y)).amax((2, 3)))


class OneChannel(nn.Module):
    """Layers of a single channel, one of them broadcast over several."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 1, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 1)
        self.one, self.d, self.classify = nn.Conv2d(3, 1, 1), nn.Conv2d(1, 4, 1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.b(self.a(x))) + self.one(x)
        return self.classify(functional.relu(self.d(self.c(y))).mean((2, 3)))


class Splits(nn.Module):
    """A gated linear unit by chunks, a maximum of two layers, split by sizes, a sum over a list."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.d, self.e, self.classify = nn.Conv2d(2, 6, 1), nn.Conv2d(4, 6, 1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = torch.chunk(self.a(x), 2, 1)
        x = value * torch.sigmoid(gate)
        x = torch.maximum(self.b(x), self.c(x)) / 2 + 1
        few, many = torch.split(x, [2, 4], dim=1)
        return self.classify(sum([self.d(few), self.e(many)]).mean([2, 3]))


class Sequence1d(nn.Module):
    """One-dimensional convolutions, batch norm after a linear layer, view before it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.Conv1d(8, 6, 3)
        self.hidden, self.hidden_norm, self.classify = nn.Linear(6 * 12, 20), nn.BatchNorm1d(20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.b(functional.relu(self.norm(self.a(x.mean(3))))))
        return self.classify(functional.relu(self.hidden_norm(self.hidden(x.view(x.size(0), -1)))))


ODD: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        SharedBlock,
        SharedBranch,
        Slices,
        Expansion,
        OwnParameters,
        LayersLast,
        Norms,
        Transposed,
        OneChannel,
        Splits,
        Sequence1d,
    )
}
"""All take images of shape (N, 3, 16, 16)."""
