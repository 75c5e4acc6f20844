"""Writing a saved sub-network elsewhere in the formats that people use.

Nothing here loads torch unless a format has to be made by it, so that files can be fetched and checked anywhere.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from greenprune_core.artefact import CARD, PROGRAM, WEIGHTS, verify_files, write_aside, writing_into
from greenprune_core.card import read_card, render_markdown
from greenprune_core.errors import ConfigError

FORMATS = {"pt2": PROGRAM, "safetensors": WEIGHTS, "onnx": "network.onnx", "card": "README.md"}
"""What `export_subnetwork` can write, and under which name."""

ONNX_TOLERANCE = 1e-4


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
        ConfigError: unknown format, torchscript, a file in the way, a folder that cannot be written, a missing
            extra, or a hash that does not match.
    """
    folder, to = Path(folder), Path(to)
    card = read_card(folder)
    verify_files(folder, card)
    for name in formats:
        _check_format(name)
    names = [*dict.fromkeys(FORMATS[name] for name in formats), CARD]
    with writing_into(to):
        in_the_way = [name for name in names if (to / name).exists()]
    if in_the_way and not force:
        raise ConfigError(
            f"an export overwrites nothing, but {to / in_the_way[0]} exists; choose another folder or --force"
        )
    # made before anything is written, so that a refused format leaves the target as it was
    contents = {FORMATS[name]: _content(folder, card, name) for name in dict.fromkeys(formats) if name != "card"}
    card = {**card, "files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}}
    if "card" in formats:
        contents[FORMATS["card"]] = render_markdown(card).encode()  # of the files that go with it
    contents[CARD] = json.dumps(card, indent=2).encode()
    with writing_into(to):
        to.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_aside(to / name, content)
    return [to / name for name in contents]


def _content(folder: Path, card: Mapping[str, Any], name: str) -> bytes:
    if name == "onnx":
        from greenprune_core.onnx_export import to_onnx
        from greenprune_core.subnetwork import load_subnetwork

        return to_onnx(load_subnetwork(folder), card["input_shape"], ONNX_TOLERANCE)
    source = folder / FORMATS[name]
    if not source.is_file():
        raise ConfigError(
            f"the format {name} is copied from {source}, but it is not there; export from the run's folder"
        )
    return source.read_bytes()


def _check_format(name: str) -> None:
    if name == "torchscript":
        raise ConfigError(
            "a format is pt2, safetensors, onnx or card, but got torchscript: torch has deprecated it and loading it "
            "runs code from the file; use pt2 (torch.export), which needs torch alone too"
        )
    if name not in FORMATS:
        raise ConfigError(f"a format is one of {', '.join(FORMATS)}, but got {name!r}; choose one of them")
