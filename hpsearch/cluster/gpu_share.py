"""Trials side by side on one GPU: each gets its share of the memory, and one that lacked memory is told apart."""

import gc
import sys

CONTEXT_BYTES = 600 * 2**20
"""Memory that a process takes on a GPU beside torch's tensors: CUDA's context, kernels and cuBLAS workspaces."""


def limit(gpus: float) -> None:
    """Let this process's tensors take no more of each GPU than its share, its CUDA context counted in.

    A trial that wants more then fails alone (`torch.OutOfMemoryError`), and not whichever trial asks next.

    Args:
        gpus: share of a GPU; 0 is none, 1 and more whole ones.
    """
    torch = sys.modules.get("torch")
    if gpus == 0 or torch is None or not torch.cuda.is_available():
        return
    for index in range(torch.cuda.device_count()):
        total_bytes = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(share_of_memory(gpus, total_bytes), index)


def share_of_memory(gpus: float, total_bytes: int) -> float:
    """Return the fraction of a GPU's memory for the tensors of a trial that has a share of it, at least half of that.

    >>> share_of_memory(0.25, 16 * 2**30)
    0.21337890625
    """
    if gpus >= 1:
        return 1.0
    return max(gpus / 2, gpus - CONTEXT_BYTES / total_bytes)


def release() -> None:
    """Give back to the GPU what a trial that has ended left in this process."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def is_crowded(error: Exception, gpus: float) -> bool:
    """Say whether a trial lacked memory on a GPU that it shared: alone it may find enough."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError) and 0 < gpus < 1
