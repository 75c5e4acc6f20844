"""Counting: hand-computed layers, torch's own counter, and the figures of the literature."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from greenprune_core.config import NetworkConfig
from greenprune_core.cost import count_cost
from greenprune_core.errors import ConfigError
from greenprune_core.networks import build_network

IMAGE = torch.zeros(1, 8, 10, 10)


@pytest.mark.parametrize(
    ("layer", "macs", "matrix_values", "vector_values"),
    [
        (nn.Conv2d(8, 16, 3), 8 * 8 * 16 * 8 * 9, 16 * 8 * 9, 16),
        (nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), 5 * 5 * 16 * 8 * 9, 16 * 8 * 9, 0),
        (nn.Conv2d(8, 16, 3, dilation=2, bias=False), 6 * 6 * 16 * 8 * 9, 16 * 8 * 9, 0),
        (nn.Conv2d(8, 16, 3, groups=4, bias=False), 8 * 8 * 16 * 2 * 9, 16 * 2 * 9, 0),
        (nn.Conv2d(8, 8, 3, groups=8, bias=False), 8 * 8 * 8 * 9, 8 * 9, 0),
        (nn.ConvTranspose2d(8, 4, 2, stride=2, bias=False), 10 * 10 * 8 * 4 * 4, 8 * 4 * 4, 0),
        (nn.Linear(10, 3), 8 * 10 * 3 * 10, 30, 3),
    ],
)
def test_a_layer_costs_what_is_worked_out_by_hand(layer, macs, matrix_values, vector_values):
    cost = count_cost(layer, IMAGE)
    (operator,) = [operator for operator in cost.operators if operator.macs]
    assert cost.macs == macs
    assert operator.matrix_bytes == 4 * matrix_values
    assert operator.vector_bytes == 4 * vector_values
    assert cost.params == matrix_values + vector_values
    assert cost.not_counted == {}


def test_a_convolution_reads_its_input_and_writes_its_output_once():
    cost = count_cost(nn.Conv2d(8, 16, 3), IMAGE)
    assert cost.activation_bytes == 4 * (8 * 10 * 10 + 16 * 8 * 8)


def test_norms_activations_and_poolings_cost_element_operations_and_bytes_but_no_macs():
    cost = count_cost(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)), IMAGE)
    values = 8 * 10 * 10
    assert cost.macs == 0
    assert [operator.element_ops for operator in cost.operators] == [2 * values, values, values]
    assert cost.operators[0].weight_bytes == 4 * 4 * 8
    assert [operator.written_bytes for operator in cost.operators] == [4 * values, 4 * values, values]


def test_attention_costs_two_products_and_its_projections():
    length, width = 6, 12
    attention = nn.MultiheadAttention(width, 3, batch_first=True)

    class SelfAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, tokens):
            return self.attention(tokens, tokens, tokens, need_weights=False)[0]

    cost = count_cost(SelfAttention(), torch.zeros(1, length, width))
    assert cost.macs == 4 * length * width * width + 2 * length * length * width
    assert cost.not_counted == {}


class Attends(nn.Module):
    """Queries of the first 5 tokens over all tokens, in heads of the given width."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, tokens):
        return nn.functional.scaled_dot_product_attention(tokens[:, :, :5], tokens, tokens, **self.options)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("options", [{}, {"attn_mask": torch.ones(5, 7)}, {"scale": 0.5}])
def test_scaled_dot_product_attention_costs_two_products_over_all_heads(device, options):
    options = {name: value.to(device) if torch.is_tensor(value) else value for name, value in options.items()}
    n_heads, n_keys, width = 3, 7, 4
    cost = count_cost(Attends(**options), torch.zeros(1, n_heads, n_keys, width, device=device))
    assert cost.macs == n_heads * 5 * n_keys * (width + width)
    assert cost.not_counted == {}
    assert cost.activation_bytes >= 4 * n_heads * width * (5 + n_keys + n_keys + 5)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_attention_between_two_sequences_costs_the_same_however_it_is_asked(need_weights, batch_first):
    n_queries, n_keys, width = 2, 6, 12
    attention = nn.MultiheadAttention(width, 3, batch_first=batch_first)

    class CrossAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, tokens):
            keys = tokens if batch_first else tokens.transpose(0, 1)
            queries = keys[:, :n_queries] if batch_first else keys[:n_queries]
            return self.attention(queries, keys, keys, need_weights=need_weights)[0]

    cost = count_cost(CrossAttention(), torch.zeros(1, n_keys, width))
    projections = 2 * n_queries * width * width + 2 * n_keys * width * width
    assert cost.macs == projections + 2 * n_queries * n_keys * width
    assert cost.not_counted == {}


class Multiplies(nn.Module):
    def forward(self, x):
        return x @ x.transpose(-1, -2)


class Adds(nn.Module):
    def forward(self, x):
        return x + x


@pytest.mark.parametrize(
    ("layer", "macs", "element_ops"),
    [
        (Multiplies(), 8 * 10 * 10 * 10, 0),  # 8 products of two matrices of 10 by 10
        (nn.Conv2d(8, 8, (1, 3), stride=(2, 1), padding=(0, 2)), 5 * 12 * 8 * 8 * 3, 0),
        (nn.ConvTranspose2d(8, 4, 3, stride=2, groups=4), 10 * 10 * 8 * 1 * 9, 0),
        (nn.Conv1d(10, 6, 3), 8 * 6 * 10 * 3 * 8, 0),
        (nn.LayerNorm([8, 10, 10]), 0, 5 * 800),
        (nn.GroupNorm(4, 8), 0, 5 * 800),
        (nn.AvgPool2d(2), 0, 8 * 25 * 4),
        (nn.AdaptiveAvgPool2d(1), 0, 800),
        (nn.MaxPool2d(3, stride=1), 0, 8 * 64 * 9),
        (nn.Softmax(dim=1), 0, 5 * 800),
        (nn.SiLU(), 0, 800),
        (Adds(), 0, 800),
        (nn.Identity(), 0, 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_products_norms_poolings_and_element_wise_layers_are_worked_out_by_hand(layer, macs, element_ops):
    example = IMAGE if not isinstance(layer, nn.Conv1d) else torch.zeros(8, 10, 10)
    cost = count_cost(layer, example)
    n = example.shape[0]
    assert (cost.macs * n, cost.element_ops) == (macs, element_ops)
    assert cost.not_counted == {}


def test_counts_are_per_image_and_weights_per_pass():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))
    one, five = (count_cost(network, torch.zeros(n, 3, 8, 8)) for n in (1, 5))
    assert (one.macs, one.activation_bytes, one.weight_bytes) == (five.macs, five.activation_bytes, five.weight_bytes)


def test_an_unknown_operator_is_listed_and_its_bytes_are_charged():
    class Sorts(nn.Module):
        def forward(self, x):
            return torch.linalg.qr(x).R

    cost = count_cost(Sorts(), torch.zeros(1, 4, 4))
    assert cost.not_counted == {"aten.linalg_qr": 1}
    assert cost.activation_bytes > 0


def test_counting_leaves_the_network_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count_cost(network, torch.randn(2, 3, 8, 8))
    assert network.training
    assert network[0].training
    assert not network[1].training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not network[0]._forward_pre_hooks


def test_meta_fake_and_real_examples_count_the_same():
    from torch._subclasses.fake_tensor import FakeTensorMode

    def build():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))

    real = count_cost(build(), torch.zeros(1, 3, 8, 8))
    assert count_cost(build(), torch.zeros(1, 3, 8, 8, device="meta")) == real
    with FakeTensorMode():
        assert count_cost(build(), torch.zeros(1, 3, 8, 8)) == real
    with torch.inference_mode():
        assert count_cost(build(), torch.zeros(1, 3, 8, 8)) == real


def test_shared_weights_are_one_set_of_parameters_but_are_read_at_every_use():
    layer = nn.Linear(5, 5)
    once, twice = count_cost(layer, torch.zeros(1, 5)), count_cost(nn.Sequential(layer, layer), torch.zeros(1, 5))
    assert twice.params == once.params == 30
    assert twice.weight_bytes == 2 * once.weight_bytes


def test_an_empty_example_is_refused():
    with pytest.raises(ConfigError, match="at least one image"):
        count_cost(nn.ReLU(), torch.zeros(0, 3))


@pytest.mark.parametrize(("depth", "macs", "params"), [(56, 125_485_696, 853_018), (110, 252_887_680, 1_727_962)])
def test_cifar_resnets_cost_what_the_literature_says(depth, macs, params):
    config = NetworkConfig(name=f"cifar_resnet{depth}")
    network = build_network(config, n_classes=10, in_channels=3, image_size=32)
    cost = count_cost(network, torch.zeros(1, 3, 32, 32, device="meta"))
    assert (cost.macs, cost.params) == (macs, params)


TORCHVISION = (
    "resnet18",
    "mobilenet_v3_small",
    "densenet121",
    "regnet_y_400mf",
    "convnext_tiny",
    "efficientnet_b0",
    "vit_b_16",
    "googlenet",
    "swin_t",
    "vgg11_bn",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_macs_agree_with_torch_on_torchvision_networks(name):
    torchvision = pytest.importorskip("torchvision")
    # RegNet reckons its widths with tensors, so it cannot be built without values
    with torch.device("cpu" if "regnet" in name else "meta"):
        network = torchvision.models.get_model(name, weights=None).eval()
    example = torch.zeros(1, 3, 224, 224, device="meta")
    cost = count_cost(network, example)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.to("meta")(example)
    assert cost.macs == pytest.approx(counter.get_total_flops() / 2, rel=0.005)
    assert cost.params == sum(parameter.numel() for parameter in network.parameters())
    assert cost.not_counted == {}


def test_a_dot_product_is_counted():
    network = torch.nn.utils.spectral_norm(torch.nn.Linear(6, 4)).eval()
    assert count_cost(network, torch.zeros(1, 6)).macs >= 6 * 4
