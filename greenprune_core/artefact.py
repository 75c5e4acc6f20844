"""The files of a saved sub-network: their names, their hashes, and writing them aside. No torch."""

import contextlib
import hashlib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from greenprune_core.errors import ConfigError

WEIGHTS = "weights.safetensors"
PROGRAM = "program.pt2"
CARD = "card.json"


def verify_files(folder: Path, card: Mapping[str, Any]) -> None:
    """Compare the files of a sub-network with the hashes on its card.

    Raises:
        ConfigError: a file is missing or differs.
    """
    for name, expected in card["files"].items():
        path = folder / Path(name).name
        if not path.is_file():
            raise ConfigError(f"a sub-network has the files on its card, but {path} is missing; export it again")
        found = hash_file(path)
        if found != expected:
            raise ConfigError(
                f"a file's hash is the one on the card ({expected[:12]}...), but {path} has {found[:12]}...; "
                "it was changed or damaged, export it again"
            )


def write_aside(target: Path, content: bytes) -> None:
    """Write beside the target and rename over it."""
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.aside")
    try:
        aside.write_bytes(content)
        aside.replace(target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """Say plainly that a folder which the user named cannot be written to.

    Raises:
        ConfigError: in place of the system's error: a file of that name, no rights, no space.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"files go into a folder that can be written, but {folder} cannot: {error.strerror or error}; "
            "choose another folder"
        ) from error


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
