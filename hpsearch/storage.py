"""The run's folder, on a disk or in an object store: whole files in, whole files out.

Everything of a run goes through here, so that a run in `s3://bucket/prefix` reads like one in a folder. A write is
atomic: on a disk the bytes go aside and are renamed, in an object store they are one PUT. Credentials come from the
store's usual places (environment, configuration files, instance role), never from an argument. A store that does not
answer is asked again for minutes: a search outlives its outages.
"""

import contextlib
import logging
import os
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Self, TypeVar
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from greenprune_core.errors import ConfigError
from greenprune_core.home import expand

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

ASIDE_SUFFIX = ".aside"
"""Ending of files still being written; `list` never shows them."""

PATIENCE_S = 300.0
"""How long a store that does not answer is asked again before a call fails."""
FIRST_PATIENCE_S = 10.0
"""The same where a person waits for the first answer: the address may be wrong."""
PAUSES_S = (0.5, 8.0)
"""First and longest pause between two tries; each is twice the one before."""
PASSING = re.compile(
    r"NETWORK_CONNECTION|SERVICE_UNAVAILABLE|SLOW_DOWN|INTERNAL_FAILURE|THROTTLING|REQUEST_TIMEOUT"
    r"|HTTP status (429|5\d\d)|curlCode|[Tt]imed out|UNAVAILABLE"
)
"""What Arrow says of a store where another try may help; no rights, no bucket, no key are not among it."""


class RunStorage:
    """One folder of files, addressed by paths relative to it, with `/` between the parts.

    Make one with `RunStorage.open`.

    Attributes:
        location: what the user wrote, without a trailing slash.
        local: the folder as a `Path`, or None in an object store.
    """

    def __init__(self, location: str, filesystem: pafs.FileSystem, root: str, patience_s: float = PATIENCE_S) -> None:
        self.location = location
        self._patience_s = patience_s
        self.local = Path(root) if isinstance(filesystem, pafs.LocalFileSystem) else None
        self._filesystem = filesystem
        self._root = root.rstrip("/")

    @classmethod
    def open(cls, location: str | os.PathLike[str], patience_s: float = PATIENCE_S) -> Self:
        """Open a folder or the URI of an object store (`s3://`, `gs://`); nothing is made or written yet.

        Args:
            location: the folder or URI.
            patience_s: how long a store that does not answer is asked again.

        Raises:
            ConfigError: the location is no path and no URI of a known store.
        """
        text = os.fspath(location)
        if "://" not in text:
            return cls(text.rstrip("/") or "/", pafs.LocalFileSystem(), str(expand(text).absolute()))
        try:
            filesystem, root = _connect(text)
        except (ValueError, OSError) as error:
            raise ConfigError(
                f"storage is a folder or an address like s3://bucket/prefix, but got {text}: {error}; check it"
            ) from error
        return cls(text.rstrip("/"), filesystem, root, patience_s)

    def __str__(self) -> str:
        return self.location

    def read_bytes(self, path: str) -> bytes:
        """Return a file's content.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self._patiently(lambda: self._read(self._full(path)))

    def write_bytes(self, path: str, content: bytes) -> None:
        """Put a whole file in place, making its folders; an existing one is replaced at once or not at all.

        Raises:
            ConfigError: the place cannot be written to, or is full.
        """
        try:
            if self.local is None:
                self._patiently(lambda: self._put(self._full(path), content))
            else:
                _write_aside(Path(self._full(path)), content)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(
                f"the storage path must be writable, but {self.location}/{path} failed: {reason}; "
                "check the rights and the free space, or choose another --storage-path"
            ) from error

    def list(self, folder: str = "") -> list[str]:
        """Return the sorted paths of all files in a folder, not those in folders below; empty if it is not there.

        Raises:
            ConfigError: the place may not be looked at, or an object store gives no answer.
        """
        selector = pafs.FileSelector(self._full(folder), allow_not_found=True)
        names = [
            info.base_name
            for info in self._look(lambda: self._filesystem.get_file_info(selector))
            if info.type == pafs.FileType.File and not info.base_name.endswith(ASIDE_SUFFIX)
        ]
        return sorted(f"{folder}/{name}" if folder else name for name in names)

    def exists(self, path: str = "") -> bool:
        """Say whether a file or a folder is there; without a path, the run's folder itself.

        Raises:
            ConfigError: the place may not be looked at, or an object store gives no answer.
        """
        info: pafs.FileInfo = self._look(lambda: self._filesystem.get_file_info(self._full(path)))
        return bool(info.type != pafs.FileType.NotFound)

    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is left so."""
        if self.exists(path):
            with contextlib.suppress(FileNotFoundError):  # a try that was not answered may have done it
                self._patiently(lambda: self._filesystem.delete_file(self._full(path)))

    def put_folder(self, source: Path, folder: str) -> None:
        """Copy the files of a local folder (not those in folders below) into a folder of the storage."""
        for file in sorted(source.iterdir()):
            if file.is_file():
                self.write_bytes(f"{folder}/{file.name}", file.read_bytes())

    def get_folder(self, folder: str, target: Path) -> None:
        """Copy the files of a folder of the storage (not those in folders below) into a local folder."""
        for path in self.list(folder):
            _write_aside(target / PurePosixPath(path).name, self.read_bytes(path))

    def _read(self, full: str) -> bytes:
        with self._filesystem.open_input_file(full) as stream:
            return bytes(stream.read())

    def _put(self, full: str, content: bytes) -> None:
        with self._filesystem.open_output_stream(full) as stream:
            stream.write(content)

    def _look(self, call: Callable[[], Answer]) -> Answer:
        """Ask what is there; a search begins with such a question, so wrong addresses and credentials show here."""
        try:
            return self._patiently(call)
        except OSError as error:
            hint = (
                "check the address, the rights, and the credentials in the usual places (environment, ~/.aws, the "
                "machine's role)"
                if self.local is None
                else "check the name and the rights"
            )
            raise ConfigError(
                f"the storage path must be readable, but {self.location} failed: {error}; {hint}"
            ) from error

    def _patiently(self, call: Callable[[], Answer]) -> Answer:
        """Call, again and again while a store does not answer; every call may be made twice without harm."""
        ends, (pause_s, longest_s) = time.monotonic() + self._patience_s, PAUSES_S
        while True:
            try:
                return call()
            except OSError as error:
                if self.local is not None or not PASSING.search(str(error)) or time.monotonic() + pause_s > ends:
                    raise
                logger.warning("%s does not answer, asking again in %g s: %s", self.location, pause_s, error)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, longest_s)

    def _full(self, path: str) -> str:
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise ConfigError(f"a path in the storage stays inside it, but got {path!r}; use a plain name without '..'")
        return f"{self._root}/{path}" if path else self._root


def _connect(address: str) -> tuple[pafs.FileSystem, str]:
    """Return an object store and the path in it.

    A store that is not Amazon's is named in AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, as Amazon's own tools take it;
    Arrow alone does not read them.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not address.startswith("s3://") or not endpoint:
        filesystem, root = pafs.FileSystem.from_uri(address)
        return filesystem, root
    parts = urlsplit(endpoint)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return pafs.S3FileSystem(endpoint_override=parts.netloc, scheme=parts.scheme, region=region), address[
        len("s3://") :
    ]


def _write_aside(target: Path, content: bytes) -> None:
    """Write beside the target, flush to the disk, rename over it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}{ASIDE_SUFFIX}")
    try:
        with aside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
