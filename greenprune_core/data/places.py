"""Where downloads go, and how long to wait for them."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DOWNLOAD_TIMEOUT_S = 15.0


def cache_folder() -> Path:
    """Return the folder for downloads where no --data-dir is given."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "greenprune"


@contextmanager
def short_timeout() -> Iterator[None]:
    """Let connections made inside fail after 15 s: without a network torchvision would try each mirror for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def reason(error: Exception) -> str:
    """Return the last line of an error's text: torchvision's lists every mirror on lines of their own."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
