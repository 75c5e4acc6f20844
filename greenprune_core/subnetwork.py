"""The artefact: a static sub-network in three files that open without this project, and never by unpickling.

`program.pt2` is the exported program (`torch.export`, any batch size), for inference with torch alone.
`weights.safetensors` holds the weights and, in its header, the description of the graph, from which the eager network
is made again. `card.json` says what it is and carries the hashes of the other two. All take raw images in [0, 1]: the
normalisation is part of the network.
"""

import copy
import hashlib
import io
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import fx, nn

from greenprune_core.card import CARD_VERSION, check_card, read_card, render_markdown
from greenprune_core.errors import ConfigError, VerificationError
from greenprune_core.portable_graph import describe, rebuild

WEIGHTS = "weights.safetensors"
PROGRAM = "program.pt2"
CARD = "card.json"
FORMATS = {"pt2": PROGRAM, "safetensors": WEIGHTS, "onnx": "network.onnx", "card": "README.md"}
"""What `export_subnetwork` can write, and under which name."""

ONNX_TOLERANCE = 1e-4
_HEADER_KEY = "greenprune.network"


def save_subnetwork(
    folder: str | Path, network: nn.Module, example_input: torch.Tensor, card: Mapping[str, Any]
) -> dict[str, Any]:
    """Save a network with its card; the network itself is left as it was.

    Args:
        folder: where the three files go; made if needed.
        network: a network of torch.nn layers that torch.fx can trace.
        example_input: one batch [N, C, H, W] of the right shape and type; its values do not matter.
        card: figures and facts, see `greenprune_core.card`. With `normalisation` = {"mean": [C], "std": [C]} the
            network is given these as its first step, so that it takes raw images.

    Returns:
        The complete card, as written.

    Raises:
        ConfigError: the card is not valid.
        UnsupportedNetworkError: the network cannot be described as plain layers of torch.nn.
        VerificationError: the network made again from its files answers differently.
    """
    folder = Path(folder)
    whole = _normalised(network, card.get("normalisation"), example_input)
    # two images: an example batch of one would fix the batch size in the exported program
    batch = torch.rand(2, *example_input.shape[1:], dtype=example_input.dtype)
    weights = {name: tensor.detach().contiguous().clone() for name, tensor in whole.state_dict().items()}
    description = describe(whole)
    _verify_same(whole, rebuild(description, weights), batch)
    folder.mkdir(parents=True, exist_ok=True)
    header = {_HEADER_KEY: json.dumps(description, separators=(",", ":"))}
    _write(folder / WEIGHTS, to_safetensors(weights, metadata=header))
    _write_program(folder / PROGRAM, whole, batch)
    full = {
        **card,
        "schema_version": CARD_VERSION,
        "input_shape": list(example_input.shape[1:]),
        "params": sum(parameter.numel() for parameter in whole.parameters()),
        "files": {name: _sha256(folder / name) for name in (WEIGHTS, PROGRAM)},
    }
    check_card(full)
    _write(folder / CARD, json.dumps(full, indent=2).encode())
    return full


def load_subnetwork(folder: str | Path) -> fx.GraphModule:
    """Return the eager network, in evaluation mode; it can be trained further, changed and exported.

    It takes raw images in [0, 1], float [N, C, H, W], and gives logits. The hashes on the card are checked first.

    Raises:
        ConfigError: a file is missing or its hash is not the card's.
        UnsupportedNetworkError: the description holds what this version does not admit.
    """
    folder = Path(folder)
    verify_files(folder, read_card(folder))
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        header = file.metadata() or {}
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
    if _HEADER_KEY not in header:
        raise ConfigError(f"{WEIGHTS} holds the network's description, but that in {folder} does not; save it again")
    return rebuild(json.loads(header[_HEADER_KEY]), weights)


def verify_files(folder: Path, card: Mapping[str, Any]) -> None:
    """Compare the files of a sub-network with the hashes on its card.

    Raises:
        ConfigError: a file is missing or differs.
    """
    for name, expected in card["files"].items():
        path = folder / Path(name).name
        if not path.is_file():
            raise ConfigError(f"a sub-network has the files on its card, but {path} is missing; export it again")
        found = _sha256(path)
        if found != expected:
            raise ConfigError(
                f"a file's hash is the one on the card ({expected[:12]}...), but {path} has {found[:12]}...; "
                "it was changed or damaged, export it again"
            )


def export_subnetwork(
    folder: str | Path, to: str | Path, formats: Sequence[str] = ("pt2", "safetensors"), *, force: bool = False
) -> list[Path]:
    """Write a saved sub-network into another folder in the asked formats, always with `card.json`.

    Args:
        folder: a folder of `save_subnetwork`; its hashes are checked.
        to: target folder, made if needed.
        formats: of pt2, safetensors, onnx, card.
        force: replace files that are there.

    Returns:
        The files written.

    Raises:
        ConfigError: unknown format, torchscript, a file in the way, a missing extra, or a hash that does not match.
    """
    folder, to = Path(folder), Path(to)
    card = read_card(folder)
    verify_files(folder, card)
    for name in formats:
        _check_format(name)
    names = [*dict.fromkeys(FORMATS[name] for name in formats), CARD]
    in_the_way = [name for name in names if (to / name).exists()]
    if in_the_way and not force:
        raise ConfigError(
            f"an export overwrites nothing, but {to / in_the_way[0]} exists; choose another folder or --force"
        )
    # made before anything is written, so that a refused format leaves the target as it was
    contents = {FORMATS[name]: _content(folder, card, name) for name in dict.fromkeys(formats)}
    hashes = {
        name: hashlib.sha256(content).hexdigest() for name, content in contents.items() if name != FORMATS["card"]
    }
    contents[CARD] = json.dumps({**card, "files": hashes}, indent=2).encode()
    to.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        _write(to / name, content)
    return [to / name for name in contents]


def _content(folder: Path, card: Mapping[str, Any], name: str) -> bytes:
    if name == "card":
        return render_markdown(card).encode()
    if name == "onnx":
        from greenprune_core.onnx_export import to_onnx

        return to_onnx(load_subnetwork(folder), card["input_shape"], ONNX_TOLERANCE)
    return (folder / FORMATS[name]).read_bytes()


def _check_format(name: str) -> None:
    if name == "torchscript":
        raise ConfigError(
            "a format is pt2, safetensors, onnx or card, but got torchscript: torch has deprecated it and loading it "
            "runs code from the file; use pt2 (torch.export), which needs torch alone too"
        )
    if name not in FORMATS:
        raise ConfigError(f"a format is one of {', '.join(FORMATS)}, but got {name!r}; choose one of them")


def _normalised(
    network: nn.Module, normalisation: Mapping[str, Sequence[float]] | None, example_input: torch.Tensor
) -> fx.GraphModule:
    """Copy the network into a graph on the CPU in evaluation mode, with the normalisation as its first step."""
    whole = copy.deepcopy(network if isinstance(network, fx.GraphModule) else fx.symbolic_trace(network)).cpu().eval()
    if normalisation is not None:
        _prepend(whole, normalisation, example_input)
    return whole


def _prepend(
    network: fx.GraphModule, normalisation: Mapping[str, Sequence[float]], example_input: torch.Tensor
) -> None:
    n_channels = example_input.shape[1]
    for name in ("mean", "std"):
        values = normalisation.get(name)
        if values is None or len(values) != n_channels:
            raise ConfigError(
                f"normalisation has mean and std for {n_channels} channels, but {name} is {values}; give both"
            )
        tensor = torch.tensor(values, dtype=example_input.dtype).reshape(1, n_channels, 1, 1)
        network.register_buffer(f"input_{name}", tensor)
    graph = network.graph
    image = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(image):
        mean, std = (graph.get_attr(f"input_{name}") for name in ("mean", "std"))
    with graph.inserting_after(max(mean, std)):
        centred = graph.call_function(torch.sub, (image, mean))
    with graph.inserting_after(centred):
        scaled = graph.call_function(torch.div, (centred, std))
    image.replace_all_uses_with(scaled, delete_user_cb=lambda user: user not in (centred, scaled))
    network.recompile()


def _verify_same(network: nn.Module, again: nn.Module, batch: torch.Tensor) -> None:
    with torch.no_grad():
        difference = float((network(batch) - again(batch)).abs().max())
    if not difference == 0.0:
        raise VerificationError(
            f"a network made again from its files gives the same outputs, but they differ by {difference:.3g}; "
            "a layer keeps state outside its constructor's arguments and its weights"
        )


def _write_program(target: Path, network: fx.GraphModule, batch: torch.Tensor) -> None:
    with torch.no_grad():
        program = torch.export.export(network, (batch,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    _write(target, buffer.getvalue())


def _write(target: Path, content: bytes) -> None:
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.aside")
    try:
        aside.write_bytes(content)
        aside.replace(target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
