"""Networks, masks and a few training steps for the tests of gates and cutting."""

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.vision_transformer import VisionTransformer

from greenprune_core.gates import GatedNetwork
from greenprune_core.graph import find_branches
from greenprune_core.networks.cifar_resnet import cifar_resnet
from greenprune_core.networks.cifar_vgg import cifar_vgg

MASK_KINDS = ("all open", "one left per group", "random halves", "one group closed", "branches closed")

TORCHVISION = (
    "resnet18",
    "resnet50",
    "wide_resnet50_2",
    "resnext50_32x4d",
    "vgg16_bn",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "densenet121",
    "regnet_y_400mf",
    "shufflenet_v2_x1_0",
    "googlenet",
    "convnext_tiny",
    "vit_b_16",
)


class Mixed(nn.Module):
    """Grouped and depth-wise convolution, squeeze-excitation, shuffle, split, concatenation, scale, biases."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.squeeze = nn.Conv2d(16, 4, 1)
        self.excite = nn.Conv2d(4, 16, 1)
        self.scale = nn.Parameter(torch.rand(16, 1, 1) + 0.5)
        self.left = nn.Conv2d(8, 6, 1)
        self.right = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.act = nn.PReLU(14)
        self.up = nn.ConvTranspose2d(14, 10, 2, stride=2)
        self.hidden = nn.Linear(10 * 4, 12)
        self.classify = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(self.depthwise(self.grouped(x)))
        weight = torch.sigmoid(self.excite(functional.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = x * weight * self.scale
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        one, two = x.chunk(2, dim=1)
        x = self.act(torch.cat([self.left(one), self.right(two)], dim=1))
        x = functional.adaptive_avg_pool2d(functional.gelu(self.up(x)), 2)
        return self.classify(functional.relu(self.hidden(torch.flatten(x, 1))))


class Plain(nn.Sequential):
    """Two convolutions without normalisation, in-place activations, flattening with a spatial extent."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 10),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(10, 5),
        )


def small(name: str) -> nn.Module:
    """Build one of this file's networks, or a narrow one for small images."""
    if name.startswith("cifar_resnet"):
        return cifar_resnet(int(name.removeprefix("cifar_resnet")), n_classes=5, in_channels=3, width=4)
    if name.startswith("cifar_vgg"):
        depth = int(name.removeprefix("cifar_vgg"))
        return cifar_vgg(depth, n_classes=5, in_channels=3, image_size=16, width=4)
    if name == "tiny_vit":
        network = VisionTransformer(16, 4, 2, 4, 32, 64, num_classes=5)
        nn.init.normal_(network.heads[0].weight)  # zero at the start
        return network
    return {"mixed": Mixed, "plain": Plain}[name]()


def from_torchvision(name: str) -> nn.Module:
    """Build a torchvision classifier with random weights."""
    more = {"googlenet": {"init_weights": False}, "vit_b_16": {"image_size": 64}}.get(name, {})
    network = getattr(torchvision.models, name)(weights=None, num_classes=10, **more)
    if name == "vit_b_16":
        nn.init.normal_(network.heads[0].weight, std=0.1)  # zero at the start
    return network


def images_for(name: str, dtype: torch.dtype = torch.float32, n: int = 3, side: int = 64) -> Tensor:
    """Make random images: 64 x 64 lets all layers see more than one pixel, 32 x 32 is enough for most networks."""
    side = {"vit_b_16": 64}.get(name, side if name in TORCHVISION else 16)
    return torch.randn(n, 3, side, side, dtype=dtype, generator=torch.Generator().manual_seed(1))


def enliven(network: nn.Module, images: Tensor, n_steps: int = 2) -> nn.Module:
    """Train a few steps, with norms away from their defaults, so that no channel is trivially zero or one."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d | nn.LayerNorm):
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.3)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
    network.train()
    for _ in range(n_steps):
        output = network(images)
        output = output if isinstance(output, Tensor) else output[0]
        optimiser.zero_grad()
        functional.cross_entropy(output, torch.arange(len(images)) % output.shape[1]).backward()
        optimiser.step()
    # With the statistics of two steps at a momentum of 0.1 all signals die out on the way: take those of this batch.
    momenta = {module: module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)}
    for module in momenta:
        module.momentum = 1.0
    with torch.no_grad():
        still(network)(images)
    for module, momentum in momenta.items():
        module.momentum = momentum
    return network


def still(network: nn.Module) -> nn.Module:
    """Set training mode but for random layers, whose draws depend on the shapes."""
    network.train()
    for module in network.modules():
        if "Dropout" in type(module).__name__ or type(module).__name__ == "StochasticDepth":
            module.eval()
    return network


def make_masks(gated: GatedNetwork, kind: str, seed: int = 0) -> dict[str, Tensor]:
    """Make the masks of one of `MASK_KINDS`."""
    generator = torch.Generator().manual_seed(seed)
    kinds, masks = gated.structure.kinds, {}
    for name, n in gated.groups.items():
        mask = torch.ones(n, dtype=torch.bool)
        if kinds[name] == "branch":
            mask[:] = kind != "branches closed" or torch.rand((), generator=generator) < 0.4
        elif kind == "one left per group":
            mask[:] = torch.arange(n) == torch.randint(n, (), generator=generator)
        elif kind in ("random halves", "one group closed"):
            mask = torch.rand(n, generator=generator) < 0.5
            mask[torch.randint(n, (), generator=generator)] = True
        masks[name] = mask
    if kind == "one group closed":
        # A group beside a shortcut, where there is one: elsewhere closing it may cut the only path.
        beside = {str(node.target) for branch in find_branches(gated.structure.graph) for node in branch.inside}
        inner = [name for name in gated.groups if kinds[name] == "inner"]
        inner = [name for name in inner if name in beside] or inner
        masks[inner[len(inner) // 2]][:] = False
    return masks
