"""ONNX as an extra: write a network in the open format and check it in another runtime."""

import importlib.util
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from greenprune_core.errors import ConfigError, VerificationError

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def to_onnx(network: nn.Module, input_shape: Sequence[int], tolerance: float) -> bytes:
    """Return the network as an ONNX file whose input `images` and output `logits` take any batch size.

    The file is run by onnxruntime on three random images and compared with the network.

    Raises:
        ConfigError: the extra is not installed, or ONNX has no words for the network.
        VerificationError: the outputs differ by more than the tolerance, relative to the largest.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the format onnx needs {', '.join(_PACKAGES)}, but {missing[0]} is not installed; "
            "install the extra: pip install 'greenprune[onnx]'"
        )
    _check_type(network)
    batch = torch.rand(3, *input_shape, generator=torch.Generator().manual_seed(0))
    try:
        program = torch.onnx.export(
            network.eval(),
            (batch,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    except torch.onnx.OnnxExporterError as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        raise ConfigError(
            f"torch.onnx writes networks of images in the functions that ONNX has, but here it stopped with: {cause}; "
            "use the format pt2 for this network"
        ) from error
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    _verify(network, content, batch, tolerance)
    return content


def _check_type(network: nn.Module) -> None:
    others = {weight.dtype for weight in network.parameters() if weight.is_floating_point()} - {torch.float32}
    if others:
        raise ConfigError(
            f"an ONNX file holds weights in torch.float32, for which runtimes have all layers, but got {others.pop()}; "
            "convert the network with .float() and save it again, or use the format pt2"
        )


def _verify(network: nn.Module, content: bytes, batch: torch.Tensor, tolerance: float) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": batch.numpy()})
    with torch.no_grad():
        expected = network(batch).numpy()
    difference = float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))
    if not difference <= tolerance:
        raise VerificationError(
            f"onnxruntime gives the network's outputs to {tolerance}, but they differ by {difference:.3g}; "
            "use the format pt2 for this network"
        )
