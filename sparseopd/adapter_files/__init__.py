"""The adapter on disk: its format, made from two checkpoints, applied to one, converted."""

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.writer import AdapterWriter

__all__ = ["AdapterWriter", "SparseAdapter"]
