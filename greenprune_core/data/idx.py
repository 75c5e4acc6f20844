"""Read the IDX format of the MNIST family, gzipped: a four-byte magic, big-endian sizes, bytes."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from greenprune_core.errors import DataError

UNSIGNED_BYTE = 8


def read_idx(path: Path, n_dimensions: int) -> Tensor:
    """Return the bytes of a gzipped IDX file as uint8 of the shape in its header.

    Raises:
        DataError: the file is truncated, no gzip, no IDX of bytes, or longer or shorter than its header says.
    """
    again = "delete it and fetch it again"
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"a data file is a whole gzip file, but {path} is not ({error}); {again}") from error
    except OSError as error:
        raise DataError(f"a data file must be readable, but {path} is not ({error.strerror}); check it") from error
    magic = bytes((0, 0, UNSIGNED_BYTE, n_dimensions))
    header_bytes = 4 + 4 * n_dimensions
    if content[:4] != magic or len(content) < header_bytes:
        raise DataError(f"an IDX file begins with {magic.hex()}, but {path} begins with {content[:4].hex()}; {again}")
    shape = struct.unpack(f">{n_dimensions}I", content[4:header_bytes])
    found_bytes = len(content) - header_bytes
    if found_bytes != math.prod(shape):
        raise DataError(
            f"an IDX file holds as many bytes as its header says, but {path} has {found_bytes} instead of "
            f"{math.prod(shape)} ({'x'.join(map(str, shape))}); {again}"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header_bytes).reshape(shape)
