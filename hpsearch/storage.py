"""The run's folder, on a disk or in an object store: whole files in, whole files out.

Everything of a run goes through here, so that a run in `s3://bucket/prefix` reads like one in a folder. A write is
atomic: on a disk the bytes go aside and are renamed, in an object store they are one PUT. Credentials come from the
store's usual places (environment, configuration files, instance role), never from an argument.
"""

import os
import uuid
from pathlib import Path, PurePosixPath
from typing import Self
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from greenprune_core.errors import ConfigError

ASIDE_SUFFIX = ".aside"
"""Ending of files still being written; `list` never shows them."""


class RunStorage:
    """One folder of files, addressed by paths relative to it, with `/` between the parts.

    Make one with `RunStorage.open`.

    Attributes:
        location: what the user wrote, without a trailing slash.
        local: the folder as a `Path`, or None in an object store.
    """

    def __init__(self, location: str, filesystem: pafs.FileSystem, root: str) -> None:
        self.location = location
        self.local = Path(root) if isinstance(filesystem, pafs.LocalFileSystem) else None
        self._filesystem = filesystem
        self._root = root.rstrip("/")

    @classmethod
    def open(cls, location: str | os.PathLike[str]) -> Self:
        """Open a folder or the URI of an object store (`s3://`, `gs://`); nothing is made or written yet.

        Raises:
            ConfigError: the location is no path and no URI of a known store.
        """
        text = os.fspath(location)
        if "://" not in text:
            return cls(text.rstrip("/") or "/", pafs.LocalFileSystem(), str(Path(text).expanduser().absolute()))
        try:
            filesystem, root = _connect(text)
        except (ValueError, OSError) as error:
            raise ConfigError(
                f"storage is a folder or an address like s3://bucket/prefix, but got {text}: {error}; check it"
            ) from error
        return cls(text.rstrip("/"), filesystem, root)

    def __str__(self) -> str:
        return self.location

    def read_bytes(self, path: str) -> bytes:
        """Return a file's content.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self._filesystem.open_input_file(self._full(path)) as stream:
            return bytes(stream.read())

    def write_bytes(self, path: str, content: bytes) -> None:
        """Put a whole file in place, making its folders; an existing one is replaced at once or not at all.

        Raises:
            ConfigError: the place cannot be written to, or is full.
        """
        try:
            if self.local is None:
                with self._filesystem.open_output_stream(self._full(path)) as stream:
                    stream.write(content)
            else:
                _write_aside(Path(self._full(path)), content)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(
                f"the storage path must be writable, but {self.location}/{path} failed: {reason}; "
                "check the rights and the free space, or choose another --storage-path"
            ) from error

    def list(self, folder: str = "") -> list[str]:
        """Return the sorted paths of all files in a folder, not those in folders below; empty if it is not there."""
        selector = pafs.FileSelector(self._full(folder), allow_not_found=True)
        names = [
            info.base_name
            for info in self._filesystem.get_file_info(selector)
            if info.type == pafs.FileType.File and not info.base_name.endswith(ASIDE_SUFFIX)
        ]
        return sorted(f"{folder}/{name}" if folder else name for name in names)

    def exists(self, path: str = "") -> bool:
        """Say whether a file or a folder is there; without a path, the run's folder itself."""
        info: pafs.FileInfo = self._filesystem.get_file_info(self._full(path))
        return bool(info.type != pafs.FileType.NotFound)

    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is left so."""
        if self.exists(path):
            self._filesystem.delete_file(self._full(path))

    def put_folder(self, source: Path, folder: str) -> None:
        """Copy the files of a local folder (not those in folders below) into a folder of the storage."""
        for file in sorted(source.iterdir()):
            if file.is_file():
                self.write_bytes(f"{folder}/{file.name}", file.read_bytes())

    def get_folder(self, folder: str, target: Path) -> None:
        """Copy the files of a folder of the storage (not those in folders below) into a local folder."""
        for path in self.list(folder):
            _write_aside(target / PurePosixPath(path).name, self.read_bytes(path))

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
