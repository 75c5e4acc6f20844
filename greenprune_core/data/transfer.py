"""Bringing to the device what was drawn or read on the CPU."""

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return the tensor on the device; a GPU is not waited for, so that the CPU can run ahead of it."""
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
