"""Vectors by name: files of them, and one interface to the stores and databases that search among them."""

from linmap.data.vectors.files import VectorFile, VectorFileWriter
from linmap.data.vectors.opening import fill, in_memory, open_store
from linmap.data.vectors.store import Hit, VectorStore

__all__ = ["Hit", "VectorFile", "VectorFileWriter", "VectorStore", "fill", "in_memory", "open_store"]
