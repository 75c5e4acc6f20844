"""Parameters of a saved network: their type, and which of them are one."""

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from user_networks import conv, head

from greenprune_core import portable_graph, pure_functions
from greenprune_core.errors import ConfigError, UnsupportedNetworkError
from greenprune_core.export import export_subnetwork
from greenprune_core.extract import extract, verify
from greenprune_core.fold import fold_batch_norms
from greenprune_core.gates import attach_gates
from greenprune_core.graph.operators import FUNCTIONS, METHODS
from greenprune_core.portable_graph import describe, rebuild
from greenprune_core.subnetwork import load_subnetwork, save_subnetwork

IMAGES = torch.rand(2, 3, 8, 8)


class Tied(nn.Module):
    """Two layers with one weight, a parameter that is also a layer's bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.h = conv(3), conv(8), conv(8), head()
        self.c.weight = self.b.weight
        self.shift = self.c.bias

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        assert self.shift is not None
        return self.h(torch.relu(self.c(x)) + self.shift.reshape(1, -1, 1, 1))


def step(network: nn.Module) -> Tensor:
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    network(IMAGES).square().sum().backward()
    optimiser.step()
    return network(IMAGES).detach()


def test_parameters_that_layers_share_are_shared_after_loading(tmp_path: Path) -> None:
    network = Tied()
    card = save_subnetwork(tmp_path, network, IMAGES[:1], {})
    loaded = load_subnetwork(tmp_path)
    assert loaded.b.weight is loaded.c.weight
    assert loaded.shift is loaded.c.bias
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in network.parameters()) == card["params"]
    torch.testing.assert_close(step(loaded.train()), step(network.train()))


@pytest.mark.parametrize("other", ["nobody.weight", "a.weight", "h.2.bias"])
def test_a_description_that_shares_what_cannot_be_shared_is_refused(other: str) -> None:
    network = fx.symbolic_trace(Tied())
    description = describe(network)
    description["shared"] = {"c.weight": other}
    with pytest.raises(UnsupportedNetworkError, match="of one shape share"):
        rebuild(description, network.state_dict())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_is_loaded_in_the_type_of_its_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    network = Tied().to(dtype)
    save_subnetwork(tmp_path, network, IMAGES[:1].to(dtype), {})
    assert torch.equal(load_subnetwork(tmp_path)(IMAGES.to(dtype)), network(IMAGES.to(dtype)))


def test_whatever_is_followed_through_a_network_can_be_saved() -> None:
    assert [kind for kind in FUNCTIONS if kind not in pure_functions._functions().values()] == []
    assert [name for name in METHODS if hasattr(Tensor, name) and name not in pure_functions.METHODS] == []


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True, proj_size=2),
    "GRU": lambda: nn.GRU(3, 4, bias=False, dropout=0.0),
    "RNN": lambda: nn.RNN(3, 4, nonlinearity="relu"),
    "LSTMCell": lambda: nn.LSTMCell(3, 4, bias=False),
    "GRUCell": lambda: nn.GRUCell(3, 4),
    "Embedding": lambda: nn.Embedding(9, 4, padding_idx=0, max_norm=1.0),
    "MultiheadAttention": lambda: nn.MultiheadAttention(8, 2, bias=False, add_bias_kv=True, kdim=4, batch_first=True),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_is_made_again_with_the_arguments_that_it_was_made_with(kind: str) -> None:
    layer = LAYERS[kind]()
    again = portable_graph._rebuild_layer(json.loads(json.dumps(portable_graph._describe_layer(kind, layer))))
    assert repr(again) == repr(layer)
    again.load_state_dict(layer.state_dict())


class Reading(nn.Module):
    """A convolution, a recurrent layer over its columns, and rows of a table that is indexed by whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.read, self.h = conv(3), conv(8), nn.GRU(8, 6, batch_first=True), nn.Linear(6, 5)
        self.order = nn.Parameter(torch.arange(7, -1, -1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x)))).mean(2).index_select(2, self.order)
        return self.h(self.read(x.transpose(1, 2))[0].logsumexp(1))


def test_a_network_with_a_recurrent_layer_and_a_parameter_of_whole_numbers_is_cut_and_saved(tmp_path: Path) -> None:
    gated = attach_gates(Reading().eval(), IMAGES[:1])
    static = extract(gated, {"a": torch.arange(8) % 2 == 0})
    verify(gated, static, IMAGES)
    save_subnetwork(tmp_path, static, IMAGES[:1], {})
    assert torch.equal(load_subnetwork(tmp_path)(IMAGES), static(IMAGES))


def test_layers_with_a_dash_in_their_names_are_saved(tmp_path: Path) -> None:
    network = nn.Sequential(OrderedDict([("stem-0", conv(3)), ("head-1", head())]))
    save_subnetwork(tmp_path, network, IMAGES[:1], {})
    assert torch.equal(load_subnetwork(tmp_path)(IMAGES), network(IMAGES))


def test_a_name_that_would_be_code_is_refused() -> None:
    network = fx.symbolic_trace(nn.Sequential(OrderedDict([("a-0", conv(3))])))
    description = describe(network)
    next(node for node in description["nodes"] if node["op"] == "call_module")["target"] = 'a-0"), print("'
    with pytest.raises(UnsupportedNetworkError, match="is an identifier"):
        rebuild(description, network.state_dict())


class Words(nn.Module):
    """Indices of words, and a dropout that is a function."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.a, self.h = nn.Embedding(9, 4), nn.Linear(4, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(self.embed(x)))
        return self.h(nn.functional.dropout(x, 0.5, self.training).mean(1))


def test_a_network_of_whole_numbers_in_training_mode_is_saved_as_it_answers_in_evaluation_mode(tmp_path: Path) -> None:
    words = torch.randint(0, 9, (3, 7))
    network = Words().train()
    save_subnetwork(tmp_path, network, words, {})
    assert network.training
    assert torch.equal(load_subnetwork(tmp_path)(words), network.eval()(words))
    torch.testing.assert_close(torch.export.load(tmp_path / "program.pt2").module()(words), network(words))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.rand(1, 4, 8, 8), r"runs on the example input, but with images of shape \(4, 8, 8\)"),
        (torch.rand(0, 3, 8, 8), r"at least one image, but got \(0, 3, 8, 8\)"),
        (None, "at least one image, but got NoneType"),
    ],
)
def test_saving_refuses_an_example_that_the_network_does_not_take(
    example: Tensor, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        save_subnetwork(tmp_path, Tied(), example, {})


def test_saving_and_folding_refuse_what_is_no_plain_network(tmp_path: Path) -> None:
    class Choosing(Tied):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    with pytest.raises(ConfigError, match=r"save what extract\(\) returns"):
        save_subnetwork(tmp_path, attach_gates(Reading(), IMAGES[:1]), IMAGES[:1], {})
    with pytest.raises(UnsupportedNetworkError, match="tracing Choosing stopped"):
        save_subnetwork(tmp_path, Choosing(), IMAGES[:1], {})
    with pytest.raises(UnsupportedNetworkError, match="tracing Choosing stopped"):
        fold_batch_norms(Choosing(), IMAGES)


class Middling(Tied):
    """A median, which ONNX has no word for."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.flatten(1).median(1, keepdim=True)[0]


@pytest.mark.slow
def test_what_is_not_written_as_onnx_is_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    for name, network, example, message in (
        ("half", Tied().bfloat16(), IMAGES[:1].bfloat16(), "but got torch.bfloat16"),
        ("double", Tied().double(), IMAGES[:1].double(), "but got torch.float64"),
        ("words", Words(), torch.randint(0, 9, (1, 7)), "stopped with: .*use the format pt2"),
        ("middling", Middling(), IMAGES[:1], "stopped with: .*use the format pt2"),
    ):
        save_subnetwork(tmp_path / name, network, example, {})
        with pytest.raises(ConfigError, match=message):
            export_subnetwork(tmp_path / name, tmp_path / f"{name}.onnx", ["onnx"])
