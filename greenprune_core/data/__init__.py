"""Images to learn from: a name, the user's own tensors or loaders, behind one interface with a fixed split."""

from greenprune_core.data.image_data import ImageData
from greenprune_core.data.raw import RawData
from greenprune_core.data.registry import data_names, load_data, register_data
from greenprune_core.data.stores import DatasetStore, TensorStore

__all__ = ["DatasetStore", "ImageData", "RawData", "TensorStore", "data_names", "load_data", "register_data"]
