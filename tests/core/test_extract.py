"""The cut network computes what the frozen gated one does, exactly, and is a plain network."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gated_cases import MASK_KINDS, TORCHVISION, enliven, from_torchvision, images_for, make_masks, small, still
from torch import Tensor, nn
from torch.nn import functional

from greenprune_core.errors import ConfigError, VerificationError
from greenprune_core.extract import extract, extract_with_map, round_masks, slice_like, verify
from greenprune_core.gates import GatedNetwork, attach_gates

SMALL = ("cifar_resnet8", "mixed", "plain", "tiny_vit")
CIFAR = ("cifar_resnet20", "cifar_resnet56", "cifar_vgg11", "cifar_vgg13", "cifar_vgg16", "cifar_vgg19")
WITHOUT_BRANCHES = ("mixed", "plain", "vgg16_bn", "densenet121", "googlenet", "shufflenet_v2_x1_0")
BROKEN_BY_ONE_GROUP = ("plain", "vgg16_bn")
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}


def lively(name: str, side: int = 64) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    images = images_for(name, side=side)
    return enliven(from_torchvision(name) if name in TORCHVISION else small(name), images).eval(), images


def gated_case(name: str, granularity: str, dtype: torch.dtype, side: int = 64) -> tuple[GatedNetwork, Tensor]:
    network, images = lively(name, side)
    return attach_gates(network.to(dtype), images[:1].to(dtype), granularity), images.to(dtype)  # type: ignore[arg-type]


def granularities(name: str) -> tuple[str, ...]:
    is_plain = name in WITHOUT_BRANCHES or name.startswith("cifar_vgg")
    return ("channel",) if is_plain else ("channel", "layer", "both")


def check_exact(gated: GatedNetwork, name: str, images: Tensor) -> None:
    """Cut by every kind of mask; the gates are left frozen."""
    gated.open_gates()
    dense = gated(images)
    assert dense.std(0).max() > 1e-4 * dense.abs().max(), "outputs that do not depend on the image prove nothing"
    dense_size = sum(p.numel() for p in gated.network.parameters())
    has_channels = set(gated.structure.kinds.values()) != {"branch"}
    for kind in MASK_KINDS:
        if kind == "one group closed" and not has_channels:
            continue
        masks = make_masks(gated, kind)
        if kind == "one group closed" and (name in BROKEN_BY_ONE_GROUP or name.startswith("cifar_vgg")):
            with pytest.raises(ConfigError, match="needs a path"):
                extract(gated, masks)
            continue
        static = extract(gated, masks)
        verify(gated, static, images, TOLERANCES[images.dtype])
        size = sum(p.numel() for p in static.parameters())
        if kind in ("one left per group", "random halves") and has_channels:
            assert size < dense_size


def check_exact_in_both_precisions(name: str, granularity: str, network: nn.Module, images: Tensor) -> None:
    """Trace and gate once for both; float64 is the strict one, where nothing but rounding may differ."""
    gated = attach_gates(network, images[:1], granularity)  # type: ignore[arg-type]
    check_exact(gated, name, images)
    check_exact(gated.double(), name, images.double())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("granularity", ["channel", "layer", "both"])
def test_cutting_small_networks_is_exact(name: str, granularity: str) -> None:
    if granularity not in granularities(name):
        pytest.skip("has no residual branch")
    check_exact_in_both_precisions(name, granularity, *lively(name))


@pytest.mark.parametrize("name", CIFAR)
def test_cutting_networks_for_small_images_is_exact(name: str) -> None:
    network, images = lively(name)
    for granularity in granularities(name):
        check_exact_in_both_precisions(name, granularity, network, images)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_cutting_torchvision_networks_is_exact(name: str) -> None:
    network, images = lively(name)
    for granularity in granularities(name):
        check_exact_in_both_precisions(name, granularity, network, images)


def check_gradient_step(name: str, granularity: str, kind: str) -> None:
    gated, images = gated_case(name, granularity, torch.float64, side=32)
    static = extract(gated, make_masks(gated, kind))
    labels = torch.arange(len(images)) % 5
    for network in (still(gated), still(static)):
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        functional.cross_entropy(network(images), labels).backward()
        optimiser.step()
    expected = slice_like(gated, static, dict(gated.named_parameters()))
    assert set(expected) == {name for name, _ in static.named_parameters()}
    for parameter_name, parameter in static.named_parameters():
        scale = expected[parameter_name].abs().max() + 1e-4
        difference = (parameter - expected[parameter_name]).abs().max()
        assert difference <= 1e-8 * scale, parameter_name
    slices = extract_with_map(gated).slices
    for buffer_name, buffer in static.named_buffers():
        if buffer_name.endswith("running_mean"):
            pairs = slices[buffer_name]
            original = gated.get_buffer(f"network.{buffer_name}")
            for axis, kept in pairs:
                original = original.index_select(axis, kept)
            torch.testing.assert_close(buffer, original)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in SMALL for kind in MASK_KINDS if (name, kind) != ("plain", "one group closed")],
)
def test_a_gradient_step_of_the_cut_network_is_that_of_the_frozen_one(name: str, kind: str) -> None:
    check_gradient_step(name, granularities(name)[-1], kind)


@pytest.mark.parametrize("name", CIFAR)
def test_a_gradient_step_of_cut_networks_for_small_images_is_that_of_the_frozen_one(name: str) -> None:
    for kind in ("random halves", "branches closed"):
        check_gradient_step(name, granularities(name)[-1], kind)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_a_gradient_step_of_cut_torchvision_networks_is_that_of_the_frozen_one(name: str) -> None:
    check_gradient_step(name, granularities(name)[-1], "random halves")
    if name not in WITHOUT_BRANCHES:
        check_gradient_step(name, "layer", "branches closed")


def test_a_fully_closed_group_leaves_only_the_bias_of_its_reader() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 3, 1))
    head = nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.long, self.short = head, nn.Sequential(nn.Conv2d(1, 3, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten())

        def forward(self, x: Tensor) -> Tensor:
            return self.long(x) + self.short(x)

    images = torch.randn(2, 1, 8, 8)
    gated = attach_gates(Beside(), images)
    masks = {"long.0.0": torch.zeros(4, dtype=torch.bool), "long.0.2": torch.tensor([True, False])}
    static = extract(gated, masks)
    verify(gated, static, images)
    layers = {name for name, _ in static.named_modules() if name}
    assert "long.0.0" not in layers, "the layer that made the closed channels is gone"
    torch.testing.assert_close(static.get_parameter("long.0.2.bias"), network[2].bias[:1])


def test_closing_everything_is_refused() -> None:
    gated, _ = gated_case("plain", "channel", torch.float32)
    masks = {name: torch.zeros(n, dtype=torch.bool) for name, n in gated.groups.items()}
    with pytest.raises(ConfigError, match="needs a path from its input to its output"):
        extract(gated, masks)
    assert gated.mode == "open", "a refusal leaves the network as it was"
    assert all(bool(mask.all()) for mask in gated.masks.values())


def test_a_closed_branch_is_gone_with_all_its_layers() -> None:
    gated, images = gated_case("cifar_resnet8", "layer", torch.float32)
    closed = next(name for name, kind in gated.structure.kinds.items() if kind == "branch")
    static = extract(gated, {closed: torch.zeros(1, dtype=torch.bool)})
    block = closed.removeprefix("branch:")
    assert not [name for name, _ in static.named_parameters() if name.startswith(f"{block}.")]
    verify(gated, static, images)


def test_rounding_keeps_multiples_and_never_closes() -> None:
    gated, images = gated_case("resnet18", "channel", torch.float32)
    masks = make_masks(gated, "random halves")
    rounded = round_masks(gated, masks, 8)
    for name, mask in rounded.items():
        assert int(mask.sum()) % 8 == 0 or mask.all()
        assert bool((mask >= masks[name]).all())
        assert int(mask.sum()) - int(masks[name].sum()) < 8
    static = extract(gated, masks, round_to=8)
    verify(gated, static, images)
    convolutions = [m for m in static.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions
    assert all(m.out_channels % 8 == 0 for m in convolutions)


@pytest.mark.slow
def test_rounding_counts_channels_not_gates_in_a_grouped_convolution() -> None:
    gated, images = gated_case("resnext50_32x4d", "channel", torch.float32)
    static = extract(gated, make_masks(gated, "random halves"), round_to=8)
    verify(gated, static, images)
    grouped = [m for m in static.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert grouped
    assert all(m.out_channels % 8 == 0 and m.out_channels // m.groups in (4, 8, 16, 32) for m in grouped)


def test_rounding_opens_the_gates_first_that_were_open_most_often() -> None:
    gated, images = gated_case("plain", "channel", torch.float32)
    gated.release_gates()
    gated.start_statistics()
    gated.eval()(images)
    place = gated.group_slices["0"]
    gated._n_open[place] = torch.tensor([3.0, 0, 1, 0, 2, 0]).double()
    mask = torch.tensor([True, False, False, False, False, False])
    assert round_masks(gated, {"0": mask}, 3)["0"].tolist() == [True, False, True, False, True, False]


def test_momenta_go_over_the_cut_with_their_weights() -> None:
    gated, _ = gated_case("cifar_resnet8", "both", torch.float32)
    static = extract(gated, make_masks(gated, "random halves"))
    momenta = {name: parameter.detach() * 3 for name, parameter in gated.named_parameters()}
    kept = slice_like(gated, static, momenta)
    for name, parameter in static.named_parameters():
        torch.testing.assert_close(kept[name], parameter.detach() * 3)
    assert slice_like(gated, static, {"network.conv.weight": torch.tensor(7.0)})["conv.weight"] == 7.0
    for wrong in (torch.zeros(2, 3, 3, 3), torch.zeros(4, 3, 3)):
        with pytest.raises(ConfigError, match=r"its parameter's shape, but for conv\.weight got"):
            slice_like(gated, static, {"network.conv.weight": wrong})


def test_variances_by_row_and_column_go_over_the_cut_with_the_axes_that_they_have() -> None:
    gated, _ = gated_case("plain", "channel", torch.float32)
    static = extract(gated, {"2": torch.tensor([True, False] * 4)})
    rows, columns = torch.arange(8.0).reshape(8, 1, 1, 1), torch.arange(6.0).reshape(1, 6, 1, 1)
    assert slice_like(gated, static, {"network.2.weight": rows})["2.weight"].flatten().tolist() == [0, 2, 4, 6]
    assert slice_like(gated, static, {"network.2.weight": columns})["2.weight"].flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_the_cut_network_shares_no_memory_with_the_gated_one() -> None:
    gated, _ = gated_case("mixed", "channel", torch.float32)
    before = copy.deepcopy(gated.state_dict())
    static = extract(gated, make_masks(gated, "all open"))
    with torch.no_grad():
        for tensor in (*static.parameters(), *static.buffers()):
            tensor.zero_()
    for name, tensor in gated.state_dict().items():
        torch.testing.assert_close(tensor, before[name])


WITHOUT_US = """
import pickle, sys
sys.modules["greenprune_core"] = None
import torch
with open(sys.argv[1], "rb") as file:
    cases = pickle.load(file)
for network, images, expected in cases:
    torch.testing.assert_close(network.eval()(images), expected)
    program = torch.export.export(network, (images,))
    torch.testing.assert_close(program.module()(images), expected)
    network.train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    network(images).sum().backward()
    optimiser.step()
    assert all(p.grad is not None for p in network.parameters())
assert not any(name.startswith("greenprune_core.") for name in sys.modules)
print(len(cases), "fine")
"""


@pytest.mark.slow
def test_it_loads_exports_and_trains_where_this_package_cannot_be_imported(tmp_path: Path) -> None:
    cases = []
    for name, kind in (("mixed", "random halves"), ("cifar_resnet8", "one group closed")):
        gated, images = gated_case(name, "channel", torch.float32)
        static = extract(gated, make_masks(gated, kind)).eval()
        cases.append((static, images, static(images).detach()))
    path = tmp_path / "networks.pickle"
    path.write_bytes(pickle.dumps(cases))
    run = subprocess.run([sys.executable, "-c", WITHOUT_US, path], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "2 fine", run.stderr


def test_every_layer_of_the_cut_network_is_one_of_torch() -> None:
    gated, _ = gated_case("mobilenet_v3_small", "both", torch.float32)
    static = extract(gated, make_masks(gated, "random halves"))
    homes = {type(module).__module__ for name, module in static.named_modules() if name}
    assert homes
    assert all(home.startswith("torch.") for home in homes)


def test_it_takes_other_batch_sizes_and_image_sizes() -> None:
    gated, _ = gated_case("resnet18", "both", torch.float32)
    static = extract(gated, make_masks(gated, "random halves"))
    assert verify(gated, static, torch.randn(5, 3, 96, 80)) < 1e-3


@pytest.mark.parametrize("name", ["cifar_resnet8", "resnet18"])
def test_a_closed_group_beside_a_shortcut_binds_to_no_image_size(name: str) -> None:
    gated, images = gated_case(name, "channel", torch.float64)
    inner = [group for group, kind in gated.structure.kinds.items() if kind == "inner"]
    static = extract(gated, {group: torch.zeros(gated.groups[group], dtype=torch.bool) for group in inner})
    assert len(inner) > 2
    for size in (images.shape[2], 32, 48):
        verify(gated, static, torch.randn(2, 3, size, size, dtype=torch.float64), 1e-10)


def test_an_unfrozen_network_is_not_cut() -> None:
    gated, images = gated_case("plain", "channel", torch.float32)
    with pytest.raises(ConfigError, match="call freeze"):
        extract(gated)
    with pytest.raises(ConfigError, match="call freeze"):
        verify(gated, gated.network, images)


@pytest.mark.parametrize("round_to", [0, -1, 1.5, "8"])
def test_a_rounding_that_would_be_ignored_is_refused(round_to: int) -> None:
    gated, _ = gated_case("plain", "channel", torch.float32)
    with pytest.raises(ConfigError, match="round_to needs a whole number of at least 1"):
        extract(gated, make_masks(gated, "random halves"), round_to=round_to)


def test_masks_that_are_no_dictionary_by_group_are_refused() -> None:
    gated, _ = gated_case("plain", "channel", torch.float32)
    with pytest.raises(ConfigError, match="masks are a dictionary from group to mask, but got list"):
        gated.freeze([torch.ones(6)])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="masks are a dictionary from group to mask, but got list"):
        extract(gated, [torch.ones(6)])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="belongs to a group of the network, but got 0"):
        extract(gated, {0: torch.ones(6)})  # type: ignore[dict-item]


def test_outputs_that_are_not_finite_are_not_blamed_on_the_cut() -> None:
    gated, images = gated_case("plain", "channel", torch.float32)
    static = extract(gated, make_masks(gated, "random halves"))
    with pytest.raises(VerificationError, match="look for NaN in the inputs"):
        verify(gated, static, images * float("nan"))


def test_a_cut_network_can_be_gated_and_cut_again() -> None:
    gated, images = gated_case("cifar_resnet8", "both", torch.float64)
    once = extract(gated, make_masks(gated, "random halves")).eval()
    again = attach_gates(once, images[:1], "both")
    twice = extract(again, make_masks(again, "random halves", seed=3))
    verify(again, twice, images, 1e-10)
    assert sum(p.numel() for p in twice.parameters()) < sum(p.numel() for p in once.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cut_of_a_network_in_half_precision_is_compared_beyond_its_rounding(dtype: torch.dtype) -> None:
    gated, images = gated_case("cifar_resnet20", "both", dtype)
    masks = make_masks(gated, "random halves")
    static = extract(gated, masks)
    assert verify(gated, static, images, 1e-10) < 1e-12
    with torch.no_grad():
        static.get_parameter("classifier.bias").add_(0.05)
    with pytest.raises(VerificationError, match="differs by at most"):
        verify(gated, static, images)


def test_a_wrong_cut_is_noticed() -> None:
    gated, images = gated_case("cifar_resnet8", "channel", torch.float32)
    static = extract(gated, make_masks(gated, "random halves"))
    with torch.no_grad():
        next(static.parameters()).mul_(1.01)
    with pytest.raises(VerificationError, match="differs by at most"):
        verify(gated, static, images)
    with torch.no_grad():
        next(static.parameters()).fill_(float("nan"))
    with pytest.raises(VerificationError):
        verify(gated, static, images)
