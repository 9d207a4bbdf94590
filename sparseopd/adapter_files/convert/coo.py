"""Coordinates and new values in a plain safetensors file, as torch's sparse tensors have them.

    NAME.indices  int64 (d, k)  coordinates, one row for each dimension
    NAME.values   (k,)          new values, in the base's dtype
    NAME.shape    int64 (d,)

`torch.sparse_coo_tensor(indices, values, shape)` is the tensor. Nothing is lost in either direction.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.container import Container
from sparseopd.adapter_files.convert.changes import Change, Places, Replacements
from sparseopd.adapter_files.convert.differences import positions_of
from sparseopd.adapter_files.convert.plain import PlainFile
from sparseopd.adapter_files.convert.result import Outcome
from sparseopd.adapter_files.convert.steps import tensors_in
from sparseopd.artifacts import Progress
from sparseopd.errors import AdapterFileError
from sparseopd.pairs.tensors import Source, Tensors

TITLE = "COO safetensors"
FILE, FORMAT = "coo.safetensors", "coo"
PARTS = ("indices", "values", "shape")


def export(
    adapter: SparseAdapter, base: Source | None, folder: Path, progress: Progress | None
) -> Outcome:
    """Write the file; the base is not needed."""
    container = Container(folder, {"format": FORMAT})
    try:
        for name in tensors_in(adapter, adapter.touched, progress):
            shape = adapter.shape(name)
            positions = positions_of(adapter.mask.bitmaps[name])
            container.add(f"{name}.indices", _coordinates(positions, shape))
            container.add(f"{name}.values", adapter.values(name))
            container.add(f"{name}.shape", torch.tensor(shape, dtype=torch.int64))
        container.write(folder / FILE)
    finally:
        container.close()
    return Outcome(k=adapter.count())


def read(path: Path, source: Source, base: Tensors) -> Change:
    """Open such a file. Raises `AdapterFileError` for one that is damaged, `AdapterMismatchError`."""
    file = PlainFile(path / FILE if path.is_dir() else path, PARTS)
    shapes = {name: _shape(file, name) for name in file.names}

    def stored(name: str) -> Places:
        indices, values = file.tensor(name, "indices"), file.tensor(name, "values")
        return _flat(file.label, name, indices, shapes[name]), values

    return Replacements(file.label, base, shapes, stored)


def _coordinates(positions: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the coordinates, int64 (d, k), of row-major positions (k,)."""
    sizes = torch.tensor(shape, dtype=torch.int64).unsqueeze(1)
    return positions.div(_strides(shape), rounding_mode="floor") % sizes


def _strides(shape: tuple[int, ...]) -> Tensor:
    """Return how far apart neighbours along each dimension lie: int64 (d, 1)."""
    strides = [math.prod(shape[place + 1 :]) for place in range(len(shape))]
    return torch.tensor(strides, dtype=torch.int64).unsqueeze(1)


def _shape(file: PlainFile, name: str) -> tuple[int, ...]:
    shape = file.tensor(name, "shape")
    if shape.ndim != 1 or shape.is_floating_point():
        raise AdapterFileError(f"{file.label} is inconsistent: {name} has no shape")
    return tuple(shape.tolist())


def _flat(label: str, name: str, indices: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the row-major positions, int64 (k,), of coordinates (d, k)."""
    whole = not indices.is_floating_point() and indices.ndim == 2 and len(indices) == len(shape)
    limits = torch.tensor(shape, dtype=torch.int64).unsqueeze(1)
    if not whole or bool(((indices < 0) | (indices >= limits)).any()):
        raise AdapterFileError(
            f"{label} is inconsistent: {name} has coordinates outside its shape {shape}"
        )
    return (indices.long() * _strides(shape)).sum(0)
