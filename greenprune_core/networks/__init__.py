"""Dense networks by name: CIFAR ResNets and VGGs, torchvision's classifiers, the user's own."""

from greenprune_core.networks.registry import build_network, network_names, register_network

__all__ = ["build_network", "network_names", "register_network"]
