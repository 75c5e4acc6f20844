"""Text of a run that came from elsewhere, made safe to print: an error or a name may hold commands to a terminal."""

import re
from typing import Any

_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and those that turn the direction of writing."""


def visible(text: str) -> str:
    r"""Write control characters as people write them, like `\x1b`, so that no terminal obeys them."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def all_visible(value: Any) -> Any:
    """Return what JSON gave with every text in it made safe to print."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(key): all_visible(inner) for key, inner in value.items()}
    return [all_visible(inner) for inner in value] if isinstance(value, list) else value
