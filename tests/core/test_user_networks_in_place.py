"""Networks that write over their values are gated and cut exactly, or refused; what nobody reads costs nothing."""

from collections.abc import Callable

import pytest
import torch
from exact_cuts import check_cuts
from torch import Tensor, nn
from torch.nn import functional

from greenprune_core.cost import ExpectedCost, count_cost
from greenprune_core.errors import UnsupportedNetworkError
from greenprune_core.extract import extract
from greenprune_core.gates import attach_gates


class Layers(nn.Module):
    """Layers that a test joins by its own forward."""

    def __init__(self, forward: Callable[["Layers", Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.d = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.relu, self.classify = nn.ReLU(inplace=True), nn.Linear(6, 5)
        self.join = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.d(self.join(self, x)).mean((2, 3)))


def _before_activation(s: Layers, x: Tensor) -> Tensor:
    x = s.a(x)
    return s.c(s.b(s.relu(x))) + x


def _beside_projection(s: Layers, x: Tensor) -> Tensor:
    x = s.a(x)
    y = s.b(s.relu(x))
    return y + s.c(x)


def _between_readers(s: Layers, x: Tensor) -> Tensor:
    x = s.a(x)
    y = s.b(x)
    functional.relu_(x)
    return y + s.c(x)


def _after_closed_branch(s: Layers, x: Tensor) -> Tensor:
    x = s.a(x)
    return torch.relu_(x + s.b(x)) + x


def _statements(s: Layers, x: Tensor) -> Tensor:
    x = s.a(x)
    functional.relu(x, True)
    y = s.b(x)
    y += x
    y.mul_(2).clamp_(-1)
    return y


def _part_of_its_own(s: Layers, x: Tensor) -> Tensor:
    x = s.a(x)
    return torch.cat([x[:, :4].relu_(), x[:, 4:]], 1)


FORWARDS = [_before_activation, _beside_projection, _between_readers, _after_closed_branch, _statements]


@pytest.mark.parametrize("granularity", ["channel", "layer", "both"])
@pytest.mark.parametrize("forward", [*FORWARDS, _part_of_its_own])
def test_what_reads_a_value_after_it_was_written_over_reads_the_new_one(
    forward: Callable[[Layers, Tensor], Tensor], granularity: str
) -> None:
    if granularity == "layer" and forward in (_beside_projection, _between_readers, _part_of_its_own):
        with pytest.raises(UnsupportedNetworkError, match="adds none"):
            attach_gates(Layers(forward), torch.zeros(1, 3, 8, 8), "layer")
    else:
        check_cuts(Layers(forward), granularity)  # type: ignore[arg-type]


def _view_of_it(s: Layers, x: Tensor) -> Tensor:
    x = s.a(x)
    x.flatten(1).relu_()
    return x


def _part_of_it(s: Layers, x: Tensor) -> Tensor:
    x = s.a(x)
    x[:, :4].relu_()
    return x


@pytest.mark.parametrize("forward", [_view_of_it, _part_of_it])
def test_writing_over_a_part_of_a_value_that_is_read_later_is_refused(
    forward: Callable[[Layers, Tensor], Tensor],
) -> None:
    with pytest.raises(UnsupportedNetworkError, match="relu_ writes over a part or a view of a, which d reads"):
        attach_gates(Layers(forward), torch.zeros(1, 3, 8, 8))


def test_a_sum_in_place_that_tracing_cannot_see_is_refused() -> None:
    def forward(s: Layers, x: Tensor) -> Tensor:
        x = y = s.a(x)
        y += s.b(x)
        return s.c(x)

    with pytest.raises(UnsupportedNetworkError, match=r"`x \+= y` where `x` is read by another name too"):
        attach_gates(Layers(forward), torch.zeros(1, 3, 8, 8))


def test_what_has_no_twin_that_writes_elsewhere_is_refused() -> None:
    with pytest.raises(UnsupportedNetworkError, match=r"but zero_ .* has none"):
        attach_gates(Layers(lambda s, x: s.a(x).zero_()), torch.zeros(1, 3, 8, 8))


def _unread_addition(s: Layers, x: Tensor) -> Tensor:
    x = s.relu(s.a(x))
    x = x + s.c(s.b(x))
    x + s.b(x)
    return x


def _unread_reader(s: Layers, x: Tensor) -> Tensor:
    x = s.a(x)
    y = torch.tanh(s.b(x))
    s.c(y)
    return x + s.c(y)


@pytest.mark.parametrize("forward", [_unread_addition, _unread_reader])
def test_what_nobody_reads_does_not_keep_a_closed_branch(forward: Callable[[Layers, Tensor], Tensor]) -> None:
    gated = check_cuts(Layers(forward), "layer")
    (branch,) = gated.groups
    masks = {branch: torch.zeros(1, dtype=torch.bool)}
    expected = ExpectedCost(gated.structure, "macs")(gated.flatten_masks(masks))
    static = extract(gated, masks)
    assert count_cost(static, torch.zeros(1, 3, 8, 8, dtype=torch.float64)).macs == float(expected)
    assert {name for name, _ in static.named_children()} == {"a", "relu", "d", "classify"} - (
        {"relu"} if forward is _unread_reader else set()
    )


def test_a_head_that_is_read_in_training_only_is_left_out() -> None:
    class WithHead(Layers):
        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
            aside = self.c(self.b(self.a(x)))
            y = super().forward(x)
            return (y, aside) if self.training else y

    gated = check_cuts(WithHead(lambda s, x: s.relu(s.a(x))))
    assert gated.groups == {"a": 8, "d": 6}
    assert not [name for name, _ in gated.network.named_parameters() if name.startswith(("b.", "c."))]
