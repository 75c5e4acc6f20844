"""Files that the user wants elsewhere than in the run: in a folder, or in an object store (`s3://...`)."""

from collections.abc import Mapping

from greenprune_core.errors import ConfigError
from hpsearch.storage import FIRST_PATIENCE_S, RunStorage


def is_address(target: str) -> bool:
    """Say whether a place is one of an object store, and no folder."""
    return "://" in target


def put_at(address: str, contents: Mapping[str, bytes], *, option: str, force: bool) -> list[str]:
    """Write files into an object store, in their order; return where they are.

    Args:
        address: `s3://bucket/prefix`.
        contents: name -> content.
        option: that named the address, for the message.
        force: replace files that are there.

    Raises:
        ConfigError: no such store, a file in the way, or no right to write.
    """
    storage = RunStorage.open(address, FIRST_PATIENCE_S)
    in_the_way = next((name for name in contents if storage.exists(name)), None)
    if in_the_way and not force:
        raise ConfigError(
            f"{option} overwrites nothing, but {storage}/{in_the_way} exists; choose another place or add --force"
        )
    for name, content in contents.items():
        storage.write_bytes(name, content)
    return [f"{storage}/{name}" for name in contents]
