"""Where a network trains: the device's name, checked before anything is read or built."""

import torch

from greenprune_core.errors import ConfigError


def known_device(name: str) -> torch.device:
    """Return the device of a name.

    Raises:
        ConfigError: torch knows no such device, or nothing is trained on its kind.
    """
    refused = ConfigError(f"a device is cpu, cuda or cuda:<number>, but got {name!r}; take one of them")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise refused from error
    if device.type not in ("cpu", "cuda"):
        raise refused
    return device


def present_device(name: str) -> torch.device:
    """Return the device of a name, if this machine has it.

    Raises:
        ConfigError: torch knows no such device, or sees none here.
    """
    device = known_device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"a GPU that trains is one that torch sees, but got {name!r} and it sees {torch.cuda.device_count()}; see "
            "nvidia-smi and CUDA_VISIBLE_DEVICES, or take cpu"
        )
    return device
