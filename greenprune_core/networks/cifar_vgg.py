"""VGG with batch normalisation for small images (Simonyan and Zisserman, arXiv 1409.1556), one linear classifier."""

from collections import OrderedDict

from torch import nn

STAGES: dict[int, tuple[tuple[int, ...], ...]] = {
    11: ((1,), (2,), (4, 4), (8, 8), (8, 8)),
    13: ((1, 1), (2, 2), (4, 4), (8, 8), (8, 8)),
    16: ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8)),
    19: ((1, 1), (2, 2), (4, 4, 4, 4), (8, 8, 8, 8), (8, 8, 8, 8)),
}
"""Output channels of each convolution over those of the first stage (configurations A, B, D, E of table 1)."""


def cifar_vgg(depth: int, *, n_classes: int, in_channels: int, image_size: int, width: int) -> nn.Sequential:
    """Build VGG-11, 13, 16 or 19; width 64 is the published one.

    A stage ends in 2x2 max pooling as long as the image is at least 2 pixels wide, so that 8x8 images work too. The
    three fully connected layers are one, as usual at this size.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    n_in, side = in_channels, image_size
    for stage, factors in enumerate(STAGES[depth], start=1):
        for number, factor in enumerate(factors, start=1):
            n_out = width * factor
            layers[f"conv{stage}_{number}"] = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
            layers[f"bn{stage}_{number}"] = nn.BatchNorm2d(n_out)
            layers[f"relu{stage}_{number}"] = nn.ReLU()
            n_in = n_out
        if side >= 2:
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
            side //= 2
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(n_in, n_classes)
    network = nn.Sequential(layers)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
