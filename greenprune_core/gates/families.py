"""Gate families: how a group of channels decides which of them are open.

All share one interface: `forward(features)` returns `(p, g)`, the open probability without noise and the decision used
in the forward pass, both of shape (N, n_gates), or (1, n_gates) where all images share them. Gradients of `g` reach
the logits straight through; noise acts while training only, for at evaluation a gate must repeat itself.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from greenprune_core.errors import ConfigError

LOGIT_LIMIT = 4.0
"""Largest size of a logit: sigmoid'(4) = 0.018, so a decided gate can still be changed. Beyond it a logit takes
gradients only that lead back: one that stops both ways leaves a decided gate dead, and one that stops neither lets the
weights behind it grow without end (with bfloat16 and a large rate, to infinity in a few dozen steps)."""

_TINY = 1e-6


class Gate(nn.Module, ABC):
    """What all families share."""

    uses_features: bool
    """Whether the decision depends on the input; if not, of the features only their number N is read."""

    def __init__(self, initial_logit: float, noise: float) -> None:
        super().__init__()
        self.initial_logit = initial_logit
        self.noise = noise
        """Scale of the logistic noise while training."""

    @abstractmethod
    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return (p, g) for N images, given features of shape (N, n_features)."""

    @abstractmethod
    def revive(self, index: Tensor) -> None:
        """Open the gates at these positions again, as at the start."""


MakeGate = Callable[[int, int], Gate]
"""(number of features, number of gates) -> a gate."""


class HeadGate(Gate):
    """Input-dependent straight-through gate: pooled features -> 16 hidden units -> one logit per channel.

    After the layer gate of ConvNet-AIG (Veit and Belongie, arXiv 1711.11503) and the channel gate of Batch-Shaping
    (Bejnordi et al., arXiv 1907.06627); a reconstruction of the paper's gate, whose form its abstract does not fix.
    """

    uses_features = True

    def __init__(self, n_features: int, n_gates: int, *, initial_open: float, noise: float, hidden: int) -> None:
        super().__init__(_logit(initial_open), noise)
        self.squeeze = nn.Linear(n_features, hidden, bias=False)
        self.norm = nn.BatchNorm1d(hidden)
        self.decide = nn.Linear(hidden, n_gates)
        nn.init.normal_(self.decide.weight, std=0.01)
        nn.init.constant_(self.decide.bias, _logit(initial_open))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Decide for each of N images from its features, shape (N, n_features)."""
        hidden = torch.relu(self.norm(self.squeeze(features)))
        return _straight_through(self.decide(hidden), self.noise if self.training else 0.0)

    @torch.no_grad()
    def revive(self, index: Tensor) -> None:
        """Open the gates at these positions again, as at the start."""
        self.decide.weight[index] = 0.0
        self.decide.bias[index] = self.initial_logit


class FreeGate(Gate):
    """Input-free gate: one learned logit per channel (Gator, Passov et al., arXiv 2205.15404)."""

    uses_features = False

    def __init__(self, n_features: int, n_gates: int, *, initial_open: float, noise: float) -> None:
        super().__init__(_logit(initial_open), noise)
        self.logits = nn.Parameter(torch.full((n_gates,), self.initial_logit))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Decide for N images, all alike but for the noise; of the features only their number N is read."""
        logits = self.logits.unsqueeze(0)
        noise = self.noise if self.training else 0.0
        if noise > 0:
            logits = logits.expand(features.shape[0], -1)
        return _straight_through(logits, noise)

    @torch.no_grad()
    def revive(self, index: Tensor) -> None:
        """Open the gates at these positions again, as at the start."""
        self.logits[index] = self.initial_logit


class HardConcreteGate(Gate):
    """Hard-concrete gate of L0 regularisation (Louizos, Welling and Kingma, arXiv 1712.01312, eq. 10 and 11).

    While training it takes values in [0, 1] (the noise is part of the distribution, so its scale is 1 or, when set to
    0, off). Its open probability is that of a value above a half, sigmoid(log alpha), so that at evaluation it is
    open where that is at least a half, as in the other families; the paper counts values above zero (eq. 12), which
    shifts the logit by 1.6.
    """

    uses_features = False
    temperature, low, high = 2 / 3, -0.1, 1.1

    def __init__(self, n_features: int, n_gates: int, *, initial_open: float, noise: float) -> None:
        super().__init__(_logit(initial_open), noise)
        self.log_alpha = nn.Parameter(torch.full((n_gates,), self.initial_logit))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Draw (training) or decide (evaluation) for N images."""
        log_alpha = _limited(self.log_alpha).unsqueeze(0)
        p = torch.sigmoid(log_alpha)
        if not self.training or self.noise == 0:
            return p, _binary(p)
        log_alpha = log_alpha.expand(features.shape[0], -1)
        soft = torch.sigmoid((log_alpha + _logistic(log_alpha)) / self.temperature)
        return p, (soft * (self.high - self.low) + self.low).clamp(0, 1)

    @torch.no_grad()
    def revive(self, index: Tensor) -> None:
        """Open the gates at these positions again, as at the start."""
        self.log_alpha[index] = self.initial_logit


def gate_maker(family: str, *, initial_open: float, noise: float, hidden: int) -> MakeGate:
    """Return the constructor of a family's gates.

    Raises:
        ConfigError: no such family.
    """
    makers: dict[str, MakeGate] = {
        "head": lambda f, n: HeadGate(f, n, initial_open=initial_open, noise=noise, hidden=hidden),
        "free": lambda f, n: FreeGate(f, n, initial_open=initial_open, noise=noise),
        "hard_concrete": lambda f, n: HardConcreteGate(f, n, initial_open=initial_open, noise=noise),
    }
    if family not in makers:
        raise ConfigError(f"a gate family is one of {', '.join(makers)}, but got {family!r}; choose one of them")
    return makers[family]


def _straight_through(logits: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Return (p, g) of raw logits."""
    if torch.compiler.is_compiling():
        return _decide(logits, noise)[:2]
    p, g = _StraightThrough.apply(logits, noise)
    return p, g


def _decide(logits: Tensor, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return p, g and the noisy probability that g rounds; written so that a compiler sees the gradients too."""
    limited = _limited(logits)
    p = torch.sigmoid(limited)
    noisy = p if noise == 0 else torch.sigmoid(limited + noise * _logistic(limited))
    return p, _binary(noisy), noisy


class _StraightThrough(torch.autograd.Function):
    """The gradients of `_decide` in few operations instead of twenty: there is one of these for every group."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        p, g, noisy = _decide(logits, noise)
        ctx.save_for_backward(logits, p, noisy)
        return p, g

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_p: Tensor, of_g: Tensor) -> tuple[Tensor, None]:
        logits, p, noisy = ctx.saved_tensors
        gradient = torch.ops.aten.sigmoid_backward(of_p, p).add_(torch.ops.aten.sigmoid_backward(of_g, noisy))
        return _leading_back(gradient, logits), None


class _Limit(torch.autograd.Function):
    """A clamp whose gradient stops only where it leads further out."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        ctx.save_for_backward(logits)
        return logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (logits,) = ctx.saved_tensors
        return _leading_back(gradient, logits)


def _leading_back(gradient: Tensor, logits: Tensor) -> Tensor:
    """Drop what would lead a logit at or beyond its limit further out: a step goes against the gradient."""
    is_leading_out = (logits.abs() >= LOGIT_LIMIT) & (gradient * logits < 0)
    return gradient.masked_fill(is_leading_out, 0.0)


def _binary(p: Tensor) -> Tensor:
    """1 where p >= 0.5, else 0; backwards as if it were p."""
    return (p >= 0.5).to(p.dtype) + (p - p.detach())


def _limited(logits: Tensor) -> Tensor:
    limited: Tensor = _Limit.apply(logits)
    return limited


def _logistic(like: Tensor) -> Tensor:
    # in float32 also under autocast: of the draws in bfloat16 one in 500 is zero, and none lies above 0.996
    uniform = torch.rand_like(like, dtype=torch.promote_types(like.dtype, torch.float32)).clamp(_TINY, 1 - _TINY)
    return (torch.log(uniform) - torch.log1p(-uniform)).to(like.dtype)


def _logit(p: float) -> float:
    return math.log(p / (1 - p))
