"""Where a test's own Ray session lives."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short_folder() -> Iterator[Path]:
    """Make a folder with a short path: Ray's sockets lie below it, and a socket's path ends at 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="gp", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
