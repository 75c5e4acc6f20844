"""Channels that must be kept together are found, on networks small enough to work out by hand."""

import pytest
import torch
import torch_pruning
import torchvision
from gated_cases import Mixed, enliven, from_torchvision
from torch import Tensor, nn
from torch.nn import functional

from greenprune_core.errors import ConfigError, UnsupportedNetworkError
from greenprune_core.graph import build_structure, trace
from greenprune_core.networks.cifar_resnet import cifar_resnet

IMAGE = torch.randn(2, 3, 16, 16)


class Residual(nn.Module):
    """conv a -> (conv b -> conv c) added to a -> d."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.c, self.d = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(4, 5, 1)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.d(functional.relu(x + self.c(functional.relu(self.norm(self.b(x)))))).mean((2, 3))


def test_inner_channels_and_the_stream_are_told_apart() -> None:
    structure = build_structure(Residual(), IMAGE)
    assert structure.groups == {"a": 4, "b": 6}
    assert structure.kinds == {"a": "stream", "b": "inner"}
    assert structure.not_gated == {"d": "output of the network"}
    assert structure.group_slices == {"a": slice(0, 4), "b": slice(4, 10)}


def test_streams_can_be_left_dense() -> None:
    structure = build_structure(Residual(), IMAGE, streams=False)
    assert structure.groups == {"b": 6}
    assert "streams=False" in structure.not_gated["a"]
    assert structure.nodes["c"].inputs.tolist() == [0, 1, 2, 3, 4, 5]
    assert structure.nodes["c"].outputs.tolist() == [-1] * 4


def test_every_node_knows_its_gates() -> None:
    structure = build_structure(Residual(), IMAGE, granularity="both")
    assert structure.groups == {"a": 4, "b": 6, "branch:b": 1}
    nodes = structure.nodes
    assert nodes["a"].inputs.tolist() == [-1] * 3
    assert nodes["a"].outputs.tolist() == nodes["c"].outputs.tolist() == nodes["d"].inputs.tolist() == [0, 1, 2, 3]
    assert nodes["norm"].outputs.tolist() == nodes["c"].inputs.tolist() == [4, 5, 6, 7, 8, 9]
    assert [name for name, node in nodes.items() if node.branches] == ["b", "norm", "relu", "c"]
    assert nodes["c"].branches == (10,)


def test_only_branches_are_gated_by_layer() -> None:
    structure = build_structure(Residual(), IMAGE, granularity="layer")
    assert structure.groups == {"branch:b": 1}
    assert structure.not_gated == dict.fromkeys(("a", "d"), "in no residual branch")


def test_concatenated_channels_keep_their_own_gates() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
            self.c = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.c(torch.cat([x, self.b(x)], 1).mean((2, 3)))

    structure = build_structure(Dense(), IMAGE)
    assert structure.groups == {"a": 4, "b": 2}
    assert structure.nodes["c"].inputs.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_grouped_convolution_couples_each_group_as_a_whole() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 9, 3, groups=3), nn.Conv2d(9, 4, 1), nn.Flatten())
    structure = build_structure(network, IMAGE)
    assert structure.groups == {"0": 3}
    assert structure.nodes["_0"].outputs.tolist() == [0, 0, 1, 1, 2, 2]
    assert structure.nodes["_2"].inputs.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert structure.coupling.widths == {"0": 2}


def test_flattening_repeats_a_gate_per_pixel() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 5))
    structure = build_structure(network, IMAGE)
    assert structure.nodes["_3"].inputs.tolist() == [0] * 4 + [1] * 4


def test_a_padded_shortcut_couples_old_and_new_channels() -> None:
    structure = build_structure(cifar_resnet(8, n_classes=5, in_channels=3, width=4), IMAGE)
    streams = {name: n for name, n in structure.groups.items() if structure.kinds[name] == "stream"}
    assert sum(streams.values()) == 16  # the stream is 4, 8, then 16 channels wide, its first 4 the same throughout
    last = structure.nodes["classifier"].inputs.tolist()
    assert last[:4] == structure.nodes["conv"].outputs.tolist()
    assert len(set(last)) == 16


def test_a_channel_shuffle_is_followed() -> None:
    structure = build_structure(Mixed(), IMAGE)
    shuffled = structure.nodes["left"].inputs.tolist() + structure.nodes["right"].inputs.tolist()
    before = structure.nodes["depthwise"].outputs.tolist()
    assert shuffled == [before[i // 2 + 8 * (i % 2)] for i in range(16)]


def test_what_mixes_channels_is_left_dense_with_the_reason() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1)
            self.c, self.d = nn.Conv2d(4, 6, 1), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cumsum(self.b(self.norm(self.a(x))), 1)
            return self.d(self.c(x).mean((2, 3)))

    structure = build_structure(Odd(), IMAGE)
    assert structure.groups == {"c": 6}
    assert structure.not_gated["a"] == "GroupNorm norm works across channels"
    assert "cumsum, which is not in the table" in structure.not_gated["b"]


def test_a_layer_that_runs_twice_wears_the_same_gates() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.b(self.a(x)))).mean((2, 3))

    structure = build_structure(Twice(), IMAGE)
    assert structure.groups == {"a": 4}
    assert structure.nodes["b_1"].outputs.tolist() == [0, 1, 2, 3]


def test_layers_that_share_a_weight_and_layers_with_hooks_are_left_dense() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 6, 1), nn.ReLU())
    network.append(nn.Conv2d(6, 5, 1)).append(nn.Flatten())
    network[2].weight = network[1].weight
    structure = build_structure(network, IMAGE)
    assert structure.groups == {"3": 6}
    assert structure.not_gated["1"] == "shares its weights with another layer"
    network[4].register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(UnsupportedNetworkError, match="none can"):
        build_structure(network, IMAGE)


def test_ignored_layers_are_left_dense() -> None:
    structure = build_structure(Residual(), IMAGE, granularity="both", ignore=["b"])
    assert structure.groups == {"a": 4}
    assert structure.not_gated["b"] == "ignored on request"
    with pytest.raises(ConfigError, match="got 'bb'; near names: b"):
        build_structure(Residual(), IMAGE, ignore=["bb"])
    with pytest.raises(ConfigError, match=r"but got the text 'b'; write \['b'\]"):
        build_structure(Residual(), IMAGE, ignore="b")


def test_a_branch_that_holds_an_ignored_layer_has_no_gate() -> None:
    network = cifar_resnet(8, n_classes=5, in_channels=3, width=4)
    all_of_them = build_structure(network, IMAGE, granularity="both").branches
    block = all_of_them[1].name.removeprefix("branch:")
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d) and block in name]
    for layer in layers:
        kept = build_structure(network, IMAGE, granularity="both", ignore=[layer]).branches
        assert [branch.name for branch in kept] == [all_of_them[0].name, *[one.name for one in all_of_them[2:]]]


def test_a_branch_gate_needs_a_shortcut() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return (self.a(x) + self.b(x)).mean((2, 3))

    with pytest.raises(UnsupportedNetworkError, match="layer gates need residual branches"):
        build_structure(Twins(), IMAGE, granularity="layer")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v3_small"])
def test_torch_pruning_couples_the_same_channels(name: str) -> None:
    network = from_torchvision(name).eval()
    image = torch.randn(1, 3, 64, 64)
    structure = build_structure(network, image)
    graph = torch_pruning.DependencyGraph().build_dependency(network, example_inputs=image)
    n_compared = 0
    for group, place in structure.group_slices.items():
        layer = network.get_submodule(group)
        coupled = (
            graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, idxs=[0])
            if isinstance(layer, nn.Conv2d)
            else graph.get_pruning_group(layer, torch_pruning.prune_linear_out_channels, idxs=[0])
        )
        theirs = {
            dependency.target.name.split(" ")[0]: sorted(set(indices))
            for dependency, indices in coupled
            if "out_channels" in dependency.handler.__name__
            and isinstance(dependency.target.module, nn.Conv2d | nn.Linear)
        }
        ours = {}
        for node in structure.graph.graph.nodes:
            outputs = structure.nodes[node.name].outputs
            if node.op == "call_module" and str(node.target) in theirs and outputs is not None:
                ours[str(node.target)] = (outputs == place.start).nonzero().reshape(-1).tolist()
        assert ours == theirs, group
        n_compared += len(theirs)
    assert n_compared >= len(structure.groups)


def test_a_network_with_control_flow_on_its_data_is_named() -> None:
    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) if x.sum() > 0 else self.b(-self.a(x))

    with pytest.raises(
        UnsupportedNetworkError, match=r"tracing Choosing stopped with.*move that decision out of forward"
    ):
        build_structure(Choosing(), torch.ones(2, 4))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.randn(1, 4, 16, 16), "the network runs on the example input"),
        (torch.randn(1, 3, 16, 16).double(), "dtype of the weights"),
        (torch.ones(1, 3, 16, 16, dtype=torch.int64), "the network runs on the example input"),
        (torch.randn(3), "a batch of at least one input"),
        (torch.randn(0, 3, 16, 16), "a batch of at least one input"),
        ([1, 2], "one tensor, but got list"),
        (torch.randn(1, 3, 16, 16, device="meta"), "on the device meta"),
    ],
)
def test_a_wrong_example_input_is_named(example: Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_structure(Residual(), example)


def test_a_network_without_memory_is_named() -> None:
    with pytest.raises(ConfigError, match=r"weights in memory, but those of Residual .*to_empty"):
        build_structure(Residual().to("meta"), IMAGE)


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)


class _Mask(_Layers):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x[x.sum(1) > 0])


class _Slice(_Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)[:, : x.argmax() + 8])


class _Nonzero(_Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))[torch.nonzero(x.sum(1)).flatten()]


@pytest.mark.parametrize(("kind", "operation"), [(_Mask, "getitem"), (_Slice, "getitem"), (_Nonzero, "nonzero")])
def test_a_shape_that_depends_on_the_data_is_named(kind: type[nn.Module], operation: str) -> None:
    with pytest.raises(UnsupportedNetworkError, match=rf"but {operation} \({operation}\w*\) makes one that does"):
        build_structure(kind(), torch.ones(2, 4))


def test_a_wrapped_network_is_refused_with_the_way_to_the_inner_one() -> None:
    for wrapped, way in ((nn.DataParallel(Residual()), r"\.module"), (torch.compile(Residual()), r"\._orig_mod")):
        with pytest.raises(UnsupportedNetworkError, match=f"before it is wrapped, but got .*; pass its {way}"):
            build_structure(wrapped, IMAGE)  # type: ignore[arg-type]


def test_a_network_that_answers_otherwise_when_traced_is_refused() -> None:
    network = Residual()
    network.register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(UnsupportedNetworkError, match="Residual does not; hooks on the network itself"):
        build_structure(network, IMAGE)


def test_a_network_that_returns_a_dictionary_is_refused_with_the_way_out() -> None:
    class Named(Residual):
        def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            return {"logits": super().forward(x)}

    with pytest.raises(UnsupportedNetworkError, match=r"but got dict; wrap it so that it returns its logits"):
        build_structure(Named(), IMAGE)


def test_networks_without_weights_several_inputs_or_odd_outputs_are_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return self.a(x), x

    with pytest.raises(UnsupportedNetworkError, match="returns one tensor"):
        build_structure(Two(), IMAGE)
    with pytest.raises(UnsupportedNetworkError, match="has no parameter"):
        build_structure(nn.ReLU(), IMAGE)
    with pytest.raises(ConfigError, match="granularity is channel, layer or both"):
        build_structure(Residual(), IMAGE, granularity="filter")


def test_a_network_in_which_nothing_can_be_gated_is_an_error_that_names_the_layers() -> None:
    with pytest.raises(UnsupportedNetworkError, match="0: output of the network"):
        build_structure(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()), IMAGE)


def test_functional_dropout_follows_the_mode_in_the_traced_copy() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 400)

        def forward(self, x: Tensor) -> Tensor:
            return functional.dropout(self.a(x), 0.5, training=self.training)

    traced = trace(Dropping(), torch.ones(2, 4))
    assert (traced.train()(torch.ones(2, 4)) == 0).sum() > 100
    assert (traced.eval()(torch.ones(2, 4)) == 0).sum() == 0


def test_tracing_leaves_the_network_as_it_was() -> None:
    network = enliven(torchvision.models.shufflenet_v2_x1_0(num_classes=4), torch.randn(2, 3, 32, 32))
    network.stage2.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    traced = trace(network, torch.randn(2, 3, 32, 32))
    assert [module.training for module in network.modules()] == modes
    assert all(bool((tensor == before[name]).all()) for name, tensor in network.state_dict().items())
    assert not {id(p) for p in network.parameters()} & {id(p) for p in traced.parameters()}
