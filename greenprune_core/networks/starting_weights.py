"""Start from the weights of a safetensors file."""

import logging
from pathlib import Path

from torch import Tensor, nn

from greenprune_core.errors import ConfigError

logger = logging.getLogger(__name__)


def load_starting_weights(network: nn.Module, path: str) -> None:
    """Load all weights and buffers in place; a last layer of another number of classes starts afresh.

    Only the last linear layer may differ in its number of outputs (a network trained on other classes); this is
    logged as a warning.

    Raises:
        ConfigError: no such file, no safetensors, or a tensor is missing, unknown or of another shape.
    """
    given = _read(path)
    wanted = network.state_dict()
    for name in _last_layer(network):
        if (
            name in given
            and given[name].shape != wanted[name].shape
            and given[name].shape[1:] == wanted[name].shape[1:]
        ):
            logger.warning("%s starts afresh: %s has %d classes", name, path, len(given[name]))
            given[name] = wanted[name]
    for name, tensor in wanted.items():
        if name not in given and name.endswith("num_batches_tracked"):
            given[name] = tensor
        if name not in given:
            raise ConfigError(f"starting weights hold every tensor of the network, but {path} lacks {name}; {_WAY_OUT}")
        if given[name].shape != tensor.shape:
            raise ConfigError(
                f"starting weights have the network's shapes, but {name} of {path} is {list(given[name].shape)} "
                f"instead of {list(tensor.shape)}; {_WAY_OUT}"
            )
    unknown = sorted(set(given) - set(wanted))
    if unknown:
        raise ConfigError(f"starting weights hold only the network's tensors, but {path} has {unknown[0]}; {_WAY_OUT}")
    network.load_state_dict(given)


_WAY_OUT = "set network.name, width and image_size as when it was saved"


def _read(path: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise ConfigError(f"network.init is a safetensors file, but {path} is no file; correct the path")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ConfigError(
            f"network.init is a safetensors file, but {path} is not ({error}); save with safetensors.torch.save_file"
        ) from error


def _last_layer(network: nn.Module) -> list[str]:
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return [f"{linear[-1]}.weight", f"{linear[-1]}.bias"] if linear else []
