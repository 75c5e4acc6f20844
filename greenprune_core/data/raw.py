"""What a data set's loader hands over: everything before split, size and place are decided."""

from dataclasses import dataclass

from greenprune_core.data.stores import Store


@dataclass(frozen=True, kw_only=True)
class RawData:
    """A data set as found."""

    train: Store
    """Images from which training and validation are split."""
    test: Store
    """Images that nothing is ever selected on."""
    class_names: tuple[str, ...]
    """One name per class, in the order of the labels."""
    source: str
    """Where the images come from, and their licence."""
