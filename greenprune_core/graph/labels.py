"""Labels: which channels of which tensors must be kept or cut together.

A tensor of shape (N, d1, .., dk) wears an integer array of k axes that broadcasts to (d1, .., dk): positions with the
same label are one channel. A convolution's output wears (C, 1, 1), a token's (1, C); flattening, transposing, cutting
and joining act on the arrays as they act on the tensors.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

LabelArray = NDArray[np.int64]


class Labels:
    """A union-find over labels that remembers who produces a label and why it may stay open."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}
        self._stream: set[int] = set()
        self.producer: list[str | None] = []

    def create(self, shape: tuple[int, ...], producer: str | None) -> LabelArray:
        """Hand out fresh labels of a shape, made by a layer or (padding) by none."""
        n = int(np.prod(shape))
        start = len(self._parent)
        self._parent.extend(range(start, start + n))
        self.producer.extend([producer] * n)
        return np.arange(start, start + n, dtype=np.int64).reshape(shape)

    def always_open(self, n_axes: int, reason: str) -> LabelArray:
        """Hand out one label, worn by a whole tensor, that is never gated."""
        label = len(self._parent)
        self._parent.append(label)
        self.producer.append(None)
        self._reasons[label] = reason
        return np.full((1,) * n_axes, label, dtype=np.int64)

    def find(self, label: int) -> int:
        """Return the representative of a label's component."""
        root = label
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[label] != root:
            self._parent[label], label = root, self._parent[label]
        return root

    def union(self, first: LabelArray, second: LabelArray) -> None:
        """Join two broadcastable arrays element by element."""
        left, right = np.broadcast_arrays(first, second)
        pairs = np.unique(np.stack([left.ravel(), right.ravel()], axis=1), axis=0)
        for one, other in pairs.tolist():
            low, high = sorted((self.find(one), self.find(other)))
            if low != high:
                self._parent[high] = low

    def keep_open(self, array: LabelArray, reason: str) -> None:
        """Never gate these labels; the first reason given to a label counts."""
        for label in np.unique(array).tolist():
            self._reasons.setdefault(label, reason)

    def mark_stream(self, array: LabelArray) -> None:
        """Remember that these labels went through an addition of two produced tensors."""
        self._stream.update(np.unique(array).tolist())

    def components(self) -> dict[int, list[int]]:
        """Map each representative to the labels of its component, in increasing order."""
        members: dict[int, list[int]] = {}
        for label in range(len(self._parent)):
            members.setdefault(self.find(label), []).append(label)
        return members

    def open_reason(self, members: Iterable[int]) -> str | None:
        """Return why a component is never gated, or None if it may be."""
        return next((self._reasons[label] for label in members if label in self._reasons), None)

    def is_stream(self, members: Iterable[int]) -> bool:
        """Tell whether a component is coupled through an addition."""
        return any(label in self._stream for label in members)


def shrink(full: LabelArray) -> LabelArray:
    """Reduce the axes along which an array does not vary to size 1."""
    for axis, size in enumerate(full.shape):
        first = full.take(range(min(size, 1)), axis=axis)
        if size > 1 and bool(np.all(full == first)):
            full = first
    return full


def varying_axes(array: NDArray[Any]) -> tuple[int, ...]:
    """Return the axes along which channels differ (axis 0 is the first after the batch)."""
    return tuple(axis for axis, size in enumerate(array.shape) if size > 1)


def along(array: LabelArray, axis: int, size: int) -> LabelArray | None:
    """Return the `size` labels along one axis, or None if they vary along another axis too."""
    if any(other != axis for other in varying_axes(array)):
        return None
    return np.broadcast_to(array.reshape(-1), (size,)).copy() if array.size in (1, size) else None


def spread(array: LabelArray, shape: Any) -> LabelArray:
    """Broadcast an array to a full shape without the batch axis."""
    return np.broadcast_to(array, tuple(shape))
