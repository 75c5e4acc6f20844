"""What a caller has set in torch for code of its own, and what is set here while the code of this project runs."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def own_settings() -> Iterator[None]:
    """Run what is inside, or a function as its decorator, with gradients and with torch's own defaults.

    A caller may have turned gradients off, casts on, or have changed the default type or device. A training in such
    surroundings would be another one, or stop where a tensor that is made without a device meets a generator on the
    CPU. All is given back at the end.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # the context costs time at each call of torch
            stack.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        stack.callback(torch.set_default_dtype, dtype)
        yield
