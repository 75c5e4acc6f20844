import pytest
import torch
from safetensors.torch import save_file
from torch import fx, nn

from greenprune_core.config import NetworkConfig
from greenprune_core.errors import ConfigError
from greenprune_core.networks import build_network, network_names, register_network
from greenprune_core.networks.cifar_resnet import BasicBlock


def build(name, width=16, n_classes=10, in_channels=3, image_size=32, init=None):
    config = NetworkConfig(name=name, width=width, init=init)
    return build_network(config, n_classes=n_classes, in_channels=in_channels, image_size=image_size)


def count_macs(network, shape):
    """Multiply-accumulates of convolutions and linear layers, counted on the way through."""
    total = 0

    def add(module, _inputs, output):
        nonlocal total
        total += module.weight.numel() * output[0, 0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    network.eval()(torch.zeros(1, *shape))
    return total


@pytest.mark.parametrize(
    ("name", "macs", "n_parameters"),
    [("cifar_resnet56", 125_485_696, 853_018), ("cifar_resnet110", 252_887_680, 1_727_962)],
)
def test_residual_networks_have_the_published_counts(name, macs, n_parameters):
    network = build(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == n_parameters
    assert count_macs(network, (3, 32, 32)) == macs


def test_vgg16_has_the_published_count_of_its_cifar_form():
    # 13 convolutions without biases, two numbers for each of 4,224 normalised channels, 512 x 10 + 10 in the classifier
    network = build("cifar_vgg16", width=64)
    n_convolution = sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d))
    assert n_convolution == 14_710_464
    assert sum(p.numel() for p in network.parameters()) == n_convolution + 2 * 4_224 + 5_130


def test_a_narrowing_block_skips_every_second_pixel_and_fills_with_zeros():
    block = BasicBlock(2, 4, stride=2).eval()
    torch.nn.init.zeros_(block.bn2.weight)  # the branch adds nothing: what is left is the shortcut
    x = torch.rand(3, 2, 5, 5)
    shortcut = block(x)
    assert torch.equal(shortcut[:, :2], x[:, :, ::2, ::2])
    assert torch.all(shortcut[:, 2:] == 0)


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_resnet20", "cifar_vgg11", "cifar_vgg19"])
@pytest.mark.parametrize(("in_channels", "image_size"), [(1, 8), (1, 14), (1, 28), (3, 32), (3, 33)])
@pytest.mark.parametrize("width", [1, 5])
def test_small_networks_take_any_size_channels_and_width(name, in_channels, image_size, width):
    network = build(name, width, n_classes=7, in_channels=in_channels, image_size=image_size)
    x = torch.randn(2, in_channels, image_size, image_size)
    assert network(x).shape == (2, 7)
    traced = fx.symbolic_trace(network)
    assert torch.equal(traced.eval()(x), network.eval()(x))
    leaves = {type(module).__module__ for module in traced.modules() if not list(module.children())}
    assert all(name.startswith("torch.nn") for name in leaves)


def test_width_scales_the_counts():
    narrow, wide = (sum(p.numel() for p in build("cifar_resnet20", width).parameters()) for width in (8, 16))
    assert 3.5 < wide / narrow < 4.1


def test_equal_states_of_torchs_generator_give_equal_weights():
    networks = []
    for _ in range(2):
        torch.manual_seed(5)
        networks.append(build("cifar_resnet8"))
    first, second = (torch.cat([p.flatten() for p in network.parameters()]) for network in networks)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121", "shufflenet_v2_x1_0", "googlenet"])
@pytest.mark.parametrize(("in_channels", "image_size"), [(1, 32), (3, 96)])
def test_torchvisions_classifiers_take_small_and_grey_images(name, in_channels, image_size):
    network = build(f"torchvision/{name}", n_classes=7, in_channels=in_channels, image_size=image_size)
    assert network.eval()(torch.randn(1, in_channels, image_size, image_size)).shape == (1, 7)


def test_small_images_keep_their_resolution_in_the_stem():
    small, large = (build("torchvision/resnet18", image_size=size) for size in (32, 224))
    assert (small.conv1.stride, small.conv1.kernel_size) == ((1, 1), (3, 3))
    assert isinstance(small.maxpool, nn.Identity)
    assert (large.conv1.stride, large.conv1.kernel_size) == ((2, 2), (7, 7))
    assert isinstance(large.maxpool, nn.MaxPool2d)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("cifar_resnet21", "cifar_resnet20"),
        ("cifar_resnet2", "cifar_resnet"),
        ("cifar_vgg12", "cifar_vgg"),
        ("torchvision/resnet19", "resnet101"),
        ("cifarresnet", "cifar_resnet"),
    ],
)
def test_an_unknown_network_is_refused_with_the_nearest(name, nearest):
    with pytest.raises(ConfigError, match=rf"{name.rpartition('/')[2]}'.*; nearest: .*{nearest}"):
        build(name)


def test_an_image_size_that_a_network_cannot_take_is_refused():
    with pytest.raises(ConfigError, match="vit_b_16 must take 30x30 images"):
        build("torchvision/vit_b_16", image_size=30)


def test_a_width_that_would_be_ignored_is_refused():
    with pytest.raises(ConfigError, match="width=8 with torchvision/resnet18"):
        build("torchvision/resnet18", width=8)


def test_starting_weights_are_loaded(tmp_path):
    source = build("cifar_resnet8", 4)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    network = build("cifar_resnet8", 4, init=str(tmp_path / "weights.safetensors"))
    for name, tensor in source.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


def test_a_classifier_of_other_classes_starts_afresh(tmp_path, caplog):
    source = build("cifar_resnet8", 4, n_classes=1000)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    network = build("cifar_resnet8", 4, init=str(tmp_path / "weights.safetensors"))
    assert torch.equal(network.conv.weight, source.conv.weight)
    assert network.classifier.weight.shape == (10, 16)
    assert "classifier.weight starts afresh" in caplog.text


def test_starting_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(build("cifar_resnet8", 4).state_dict(), path)
    with pytest.raises(ConfigError, match=r"conv\.weight of .* is \[4, 3, 3, 3\] instead of \[5, 3, 3, 3\]"):
        build("cifar_resnet8", 5, init=str(path))
    with pytest.raises(ConfigError, match="lacks stage1_block2"):
        build("cifar_resnet14", 4, init=str(path))
    save_file({**build("cifar_resnet8", 4).state_dict(), "extra": torch.zeros(1)}, path)
    with pytest.raises(ConfigError, match="has extra"):
        build("cifar_resnet8", 4, init=str(path))


def test_a_file_of_weights_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no file"):
        build("cifar_resnet8", init=str(tmp_path / "absent.safetensors"))
    (tmp_path / "broken.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(ConfigError, match=r"broken\.safetensors is not"):
        build("cifar_resnet8", init=str(tmp_path / "broken.safetensors"))


def test_an_own_network_is_registered_once(monkeypatch):
    from greenprune_core.networks import registry

    monkeypatch.setattr(registry, "_CONSTRUCTORS", {})
    register_network("mine", lambda **sizes: nn.Linear(sizes["width"], sizes["n_classes"]))
    assert "mine" in network_names()
    assert build("mine", width=3).weight.shape == (10, 3)
    for taken in ("mine", "cifar_resnet20", "cifar_resnet50", "a:b"):
        with pytest.raises(ConfigError, match="free name"):
            register_network(taken, nn.Linear)


def test_an_own_network_is_found_by_reference(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def make(*, n_classes, in_channels, image_size, width):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, n_classes))\n"
        "def wrong(**sizes):\n"
        "    return 3\n"
        "def few(n_classes, width):\n"
        "    return 3\n"
    )
    assert build(f"{tmp_path / 'mine.py'}:make", image_size=4)(torch.zeros(1, 3, 4, 4)).shape == (1, 10)
    with pytest.raises(ConfigError, match="made a int"):
        build(f"{tmp_path / 'mine.py'}:wrong")
    with pytest.raises(
        ConfigError, match=r"takes n_classes, .* by name, but .*:few takes \(n_classes, width\) \(got an"
    ):
        build(f"{tmp_path / 'mine.py'}:few")
    with pytest.raises(ConfigError, match=r"by name, but .*:nn is a module; name a function"):
        build(f"{tmp_path / 'mine.py'}:nn")
