"""Read a model's tensors by checkpoint name, whole or in pieces, from disk or from memory.

`open_tensors` gives the same small interface over a folder of (sharded) safetensors and over a
model in memory, so that selection, verification and comparison never need two whole models.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
import xxhash
from torch import Tensor, nn

from sparseopd.pairs.folder import FLOATS, FolderTensors
from sparseopd.pairs.locate import weights_folder

PIECE = 1 << 20
"""Coordinates worked on at once: a multiple of 8 whose fp32 values fit a core's cache."""


class Tensors(Protocol):
    """Floating-point tensors by checkpoint name; tied weights appear once."""

    label: str
    """What to call it in a sentence."""

    @property
    def revision(self) -> str | None: ...
    @property
    def folder(self) -> Path | None: ...
    def keys(self) -> list[str]: ...
    def shape(self, name: str) -> torch.Size: ...
    def dtype(self, name: str) -> torch.dtype: ...
    def __getitem__(self, name: str) -> Tensor: ...
    def flat(self, name: str, start: int, stop: int) -> Tensor: ...


Source = str | Path | nn.Module | Tensors


def open_tensors(source: Source) -> Tensors:
    """Open a checkpoint folder, a hub id, `bundled:…` or a model in memory; what is open stays so.

    Raises `PairError` when there is no such model or it has no safetensors weights.
    """
    if isinstance(source, nn.Module):
        from sparseopd.pairs.held import ModelTensors  # transformers is not needed for folders

        return ModelTensors(source)
    if isinstance(source, (str, Path)):
        return FolderTensors(weights_folder(str(source)), label=str(source))
    return source


def source_tensors(folder: Path, model: nn.Module) -> Tensors:
    """Open the checkpoint that `model` was loaded from, without what it does not use of it."""
    return FolderTensors(folder, only=set(open_tensors(model).keys()))


def pieces(numel: int, size: int = PIECE) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) over `numel` coordinates, `size` at a time."""
    for start in range(0, numel, size):
        yield start, min(start + size, numel)


class TensorHash:
    """`tensor_hash` of a tensor whose coordinates come piece by piece, in row-major order."""

    def __init__(self, dtype: torch.dtype, shape: torch.Size | tuple[int, ...]) -> None:
        self._dtype = dtype
        self._content = xxhash.xxh3_128(f"{dtype}{tuple(shape)}".encode())

    def update(self, piece: Tensor) -> None:
        """Take in the next coordinates, in the tensor's dtype."""
        self._content.update(_content(piece))

    def update_bytes(self, content: memoryview) -> None:
        """Take in the next coordinates, as they lie in memory."""
        self._content.update(content)

    def digest(self) -> str:
        """Return `dtype:digest` of all taken in so far."""
        return f"{str(self._dtype).removeprefix('torch.')}:{self._content.hexdigest()}"


def tensor_hash(tensor: Tensor) -> str:
    """Return `dtype:digest` of a tensor's shape and bits (XXH3, 128 bits, in hex).

    It tells checkpoints apart; it is no defence against one that was made to collide.
    """
    content = TensorHash(tensor.dtype, tensor.shape)
    content.update(tensor)
    return content.digest()


def stored_hash(tensors: Tensors, name: str) -> str:
    """Return `tensor_hash` of a tensor that is read in pieces."""
    shape = tensors.shape(name)
    content = TensorHash(tensors.dtype(name), shape)
    for start, stop in pieces(shape.numel(), 4 * PIECE):
        content.update(tensors.flat(name, start, stop))
    return content.digest()


def matches_hash(tensors: Tensors, name: str, expected: str) -> bool:
    """Whether a tensor has the content `tensor_hash` saw, possibly held in a wider dtype since.

    A checkpoint stored in bfloat16 and loaded in float32 still matches: the cast back loses nothing.
    """
    stored = getattr(torch, expected.partition(":")[0], None)
    if not isinstance(stored, torch.dtype) or stored not in FLOATS.values():
        return False
    if stored == tensors.dtype(name):
        return stored_hash(tensors, name) == expected
    shape = tensors.shape(name)
    content = TensorHash(stored, shape)
    for start, stop in pieces(shape.numel()):
        held = tensors.flat(name, start, stop)
        cast = held.to(stored)
        if not torch.equal(cast.to(held.dtype), held):
            return False
        content.update(cast)
    return content.digest() == expected


def _content(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
