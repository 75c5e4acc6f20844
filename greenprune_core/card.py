"""The card of a sub-network: what it is, how well it does, what it costs, and the hashes of its files.

A card is a dictionary in JSON, checked when written and when read. Fields that are known have a fixed form; further
ones are kept as they are.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greenprune_core.errors import ConfigError

CARD_VERSION = 1
"""Version of the known fields; a newer card is refused."""

_NUMBER = (int, float)
_FIELDS: dict[str, tuple[type, ...]] = {
    "schema_version": (int,),
    "trial_id": (str,),
    "task": (str,),  # image-classification
    "data": (str, dict),  # name of the data set, or its facts (name, split, licence)
    "classes": (list,),  # names in the order of the outputs
    "input_shape": (list,),  # [channels, height, width] of a raw image in [0, 1]
    "normalisation": (dict,),  # mean and std per channel, already part of the network
    "accuracy": (dict,),  # split: {"value": in [0, 1], "n": images}
    "energy": (dict,),  # joules, source
    "macs": (int,),
    "params": (int,),
    "latency_s": _NUMBER,
    "dense": (dict,),  # the same figures of the dense network
    "configuration": (dict,),
    "provenance": (dict,),
    "files": (dict,),  # name: sha256
}
_NEEDED = ("schema_version", "input_shape", "files")
_USE = {
    "program.pt2": (
        "import torch",
        "",
        'network = torch.export.load("program.pt2").module()  # needs torch only',
        "logits = network(images)",
    ),
    "weights.safetensors": (
        "from greenprune_core import load_subnetwork",
        "",
        'network = load_subnetwork(".")  # the folder of this card',
        "logits = network(images)",
    ),
    "network.onnx": (
        "import onnxruntime",
        "",
        'network = onnxruntime.InferenceSession("network.onnx")',
        '(logits,) = network.run(None, {"images": images})  # images: numpy',
    ),
}
"""How each file is run, the best known first."""


def check_card(card: Mapping[str, Any]) -> None:
    """Check a card against the known fields.

    Raises:
        ConfigError: a needed field is missing, a known one has another form, or the card is of a newer version.
    """
    for name in _NEEDED:
        if name not in card:
            raise ConfigError(f"a card has {', '.join(_NEEDED)}, but {name} is missing; save the sub-network again")
    for name, kinds in _FIELDS.items():
        value = card.get(name)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ConfigError(f"a card's {name} is of type {wanted}, but got {value!r}; see greenprune_core.card")
    if card["schema_version"] > CARD_VERSION:
        raise ConfigError(
            f"this greenprune reads cards up to version {CARD_VERSION}, "
            f"but got {card['schema_version']}; install a newer one"
        )
    for split, figure in (card.get("accuracy") or {}).items():
        value = figure.get("value") if isinstance(figure, dict) else None
        if not isinstance(value, _NUMBER) or not 0 <= value <= 1:
            raise ConfigError(
                f"a card's accuracy has a value in [0, 1] and n, but {split} is {figure!r}; divide percents by 100"
            )


def read_card(folder: Path) -> dict[str, Any]:
    """Read and check `card.json` of a sub-network's folder.

    Raises:
        ConfigError: there is none, or it is no valid card.
    """
    path = folder / "card.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"a sub-network's folder holds card.json, but {folder} has none; give the folder of a trial"
        ) from None
    except ValueError as error:
        raise ConfigError(f"card.json is JSON, but {path} is damaged: {error}; export the sub-network again") from error
    if not isinstance(card, dict):
        raise ConfigError(f"card.json holds one object, but {path} does not; export the sub-network again")
    check_card(card)
    return card


def render_markdown(card: Mapping[str, Any]) -> str:
    """Write a card as a model card in Markdown with a YAML head, as model hubs show it."""
    data = card.get("data")
    data_name = data.get("name", "unknown") if isinstance(data, dict) else data or "unknown"
    title = f"Pruned sub-network {card.get('trial_id', '')}".strip()
    head = {
        "library_name": "pytorch",
        "pipeline_tag": card.get("task", "image-classification"),
        "tags": ["pruning", "energy", "greenprune"],
        "datasets": [data_name],
    }
    parts = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", "", f"# {title}", ""]
    parts += [
        "A static network that was gated, pruned and trained in one pass by greenprune. No gate is left in it.",
        "",
        *_figures(card),
        *_use(card),
        f"Data: {data_name}. Classes, in the order of the outputs: {_classes(card)}.",
        "",
        *_folded("Configuration", card.get("configuration")),
        *_folded("Provenance", card.get("provenance")),
        *_folded("Files (SHA-256)", card.get("files")),
    ]
    return "\n".join(parts)


def _use(card: Mapping[str, Any]) -> list[str]:
    """Show how the first of the card's files is run; nothing where the card stands alone."""
    lines = next((lines for name, lines in _USE.items() if name in card["files"]), None)
    if lines is None:
        return []
    takes = f"# images: float32 in [0, 1], {_shape(card)}; the normalisation is inside"
    return ["## Use", "", "```python", takes, *lines, "```", ""]


def _figures(card: Mapping[str, Any]) -> list[str]:
    rows = []
    for split, figure in (card.get("accuracy") or {}).items():
        count = f" (n = {figure['n']})" if "n" in figure else ""
        rows.append((f"accuracy, {split}", f"{figure['value']:.2%}{count}"))
    energy = card.get("energy") or {}
    if isinstance(energy.get("joules"), _NUMBER) and math.isfinite(energy["joules"]):
        rows.append(("energy of one inference", f"{energy['joules']:.4g} J ({energy.get('source', 'source unknown')})"))
    for name, label in (("macs", "multiply-accumulates"), ("params", "parameters")):
        if card.get(name) is not None:
            dense = (card.get("dense") or {}).get(name)
            share = f" ({card[name] / dense:.0%} of the dense network)" if dense else ""
            rows.append((label, f"{card[name]:,}{share}"))
    if card.get("latency_s") is not None:
        rows.append(("latency", f"{card['latency_s'] * 1e3:.4g} ms"))
    if not rows:
        return []
    return ["| figure | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows), ""]


def _folded(title: str, value: Any) -> list[str]:
    if not value:
        return []
    return [f"## {title}", "", "```json", json.dumps(value, indent=2), "```", ""]


def _shape(card: Mapping[str, Any]) -> str:
    return "[N, " + ", ".join(str(size) for size in card["input_shape"]) + "]"


def _classes(card: Mapping[str, Any]) -> str:
    return ", ".join(str(name) for name in card.get("classes") or ["not recorded"])
