"""One tensor's mask, eight coordinates to the byte, and a model's, made or read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sparseopd.errors import MaskError


@dataclass(frozen=True)
class Bitmap:
    """A boolean tensor packed row-major, lowest bit first; the last byte's spare bits are zero."""

    shape: tuple[int, ...]
    bits: np.ndarray
    """uint8 of (⌈numel / 8⌉,)."""

    @classmethod
    def pack(cls, name: str, tensor: Tensor) -> Bitmap:
        """Pack a boolean tensor; `name` is for the sentence when it is not boolean."""
        if tensor.dtype != torch.bool:
            raise MaskError(f"the mask of {name} must be boolean, not {tensor.dtype}")
        flat = tensor.detach().cpu().contiguous().reshape(-1).numpy()
        return cls(tuple(tensor.shape), np.packbits(flat, bitorder="little"))

    @classmethod
    def join(cls, shape: tuple[int, ...], parts: list[np.ndarray]) -> Bitmap:
        """Join packed parts of a tensor, all but the last of a multiple of 8 coordinates."""
        return cls(tuple(shape), np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint8))

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Bitmap:
        """Return a bitmap that chooses nothing."""
        return cls(tuple(shape), np.zeros((numel_of(shape) + 7) // 8, dtype=np.uint8))

    def unpack(self) -> Tensor:
        """Return the boolean tensor in its shape."""
        return self.flat(0, self.numel).reshape(self.shape)

    def flat(self, start: int, stop: int) -> Tensor:
        """Return the coordinates start…stop, row-major, bool; `start` is a multiple of 8."""
        part = self.bits[start // 8 : (stop + 7) // 8]
        flags = np.unpackbits(part, count=stop - start, bitorder="little")
        return torch.from_numpy(flags.view(np.bool_))

    def invert(self) -> Bitmap:
        """Return the complement, spare bits still zero."""
        flipped = ~self.bits
        if self.numel % 8:
            flipped[-1] &= (1 << self.numel % 8) - 1
        return Bitmap(self.shape, flipped)

    @property
    def numel(self) -> int:
        """Number of coordinates, chosen or not."""
        return numel_of(self.shape)

    @cached_property
    def count(self) -> int:
        """Number of chosen coordinates."""
        return count_bits(self.bits)


class Bitmaps(Mapping[str, Bitmap]):
    """Bitmaps by checkpoint name, in sorted order, each had from `read` when it is asked for.

    Whether that reads a file, combines two others or looks into a dictionary, a mask need not know;
    `shapes` says what is covered, and `counts` how much is chosen where that is known beforehand.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        read: Callable[[str], Bitmap],
        counts: Mapping[str, int] | None = None,
    ) -> None:
        self._shapes = {name: tuple(shapes[name]) for name in sorted(shapes)}
        self._read = read
        self._counts = dict(counts or {})

    @classmethod
    def held(cls, bitmaps: Mapping[str, Bitmap]) -> Bitmaps:
        """Wrap bitmaps that are in memory."""
        content = dict(bitmaps)
        return cls({name: bitmap.shape for name, bitmap in content.items()}, content.__getitem__)

    def __getitem__(self, name: str) -> Bitmap:
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, without reading its bitmap."""
        return self._shapes[name]

    def count(self, name: str) -> int:
        """Return the number of chosen coordinates; reads the bitmap the first time if it must."""
        if name not in self._counts:
            self._counts[name] = self[name].count
        return self._counts[name]


def numel_of(shape: tuple[int, ...]) -> int:
    """Return the number of coordinates of a shape."""
    numel = 1
    for size in shape:
        numel *= int(size)
    return numel


def count_bits(bits: np.ndarray) -> int:
    """Count the ones of a contiguous uint8 array."""
    whole = len(bits) // 8 * 8
    words = np.bitwise_count(bits[:whole].view(np.uint64))
    return int(words.sum(dtype=np.int64)) + int(np.bitwise_count(bits[whole:]).sum(dtype=np.int64))


def packed(positions: np.ndarray, numel: int) -> np.ndarray:
    """Return the packed bits, uint8 (⌈numel / 8⌉,), with ones at distinct positions (m,)."""
    if 64 * len(positions) < numel:
        bits = np.zeros((numel + 7) // 8, dtype=np.uint8)
        np.bitwise_or.at(bits, positions >> 3, np.left_shift(1, positions & 7).astype(np.uint8))
        return bits
    flags = np.zeros(numel, dtype=np.bool_)
    flags[positions] = True
    return np.packbits(flags, bitorder="little")


def ones(bits: np.ndarray) -> np.ndarray:
    """Return the positions of the ones of packed bits, uint32, ascending; quick where they are few."""
    number = count_bits(bits)
    if not number:
        return np.zeros(0, dtype=np.uint32)
    if 2 * number > len(bits):
        return _places(bits)
    byte = np.flatnonzero(bits)
    where = _places(bits[byte])
    return (byte[where >> 3] * 8 + (where & 7)).astype(np.uint32)


def _places(bits: np.ndarray) -> np.ndarray:
    flags = np.unpackbits(bits, bitorder="little").view(np.bool_)
    return np.flatnonzero(flags).astype(np.uint32)
