"""Residual networks for small images (He et al., arXiv 1512.03385, section 4.2), made of plain torch.nn leaves."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation beside a shortcut without parameters.

    Where the shape changes, the shortcut is the paper's option A: every second pixel, and zeros for the new channels
    (behind the old ones, as in the authors' released code). It is the option that gives the published counts.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.subsample = nn.AvgPool2d(1, stride) if stride != 1 else nn.Identity()
        self.n_new = n_out - n_in
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, n_in, H, W] to [N, n_out, ceil(H / stride), ceil(W / stride)]."""
        branch = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        shortcut = self.subsample(x)
        if self.n_new:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self.n_new))
        out: Tensor = self.relu2(shortcut + branch)
        return out


def cifar_resnet(depth: int, *, n_classes: int, in_channels: int, width: int) -> nn.Sequential:
    """Build the network of 6n+2 layers: three stages of n blocks with width, 2 width and 4 width channels.

    At width 16, three input channels of 32x32 and 10 classes, depth 56 has 125,485,696 multiply-accumulates
    (convolutions and classifier) and 853,018 parameters; depth 110 has 252,887,680 and 1,727,962. Any input of 4
    pixels or more will do.
    """
    n_blocks = (depth - 2) // 6
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(in_channels, width, 3, padding=1, bias=False), bn=nn.BatchNorm2d(width), relu=nn.ReLU()
    )
    n_in = width
    for stage in range(3):
        n_out = width * 2**stage
        for block in range(n_blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            layers[f"stage{stage + 1}_block{block + 1}"] = BasicBlock(n_in, n_out, stride)
            n_in = n_out
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(n_in, n_classes)
    network = nn.Sequential(layers)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
