"""How downloads are made: how long to wait for them, and one process at a time."""

import fcntl
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

DOWNLOAD_TIMEOUT_S = 15.0


@contextmanager
def short_timeout() -> Iterator[None]:
    """Let connections made inside fail after 15 s: without a network torchvision would try each mirror for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def one_at_a_time(root: Path) -> Iterator[None]:
    """Let one process of this machine download into a folder, the others wait and find what it has fetched.

    A folder that cannot be written to is not locked: nothing can be downloaded there either.
    """
    with ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context((root / ".download.lock").open("a"))
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError:
            stack.close()
        yield


def reason(error: Exception) -> str:
    """Return the last line of an error's text: torchvision's lists every mirror on lines of their own."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
