"""One tensor's mask, eight coordinates to the byte."""

from __future__ import annotations

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

    def unpack(self) -> Tensor:
        """Return the boolean tensor in its shape."""
        flat = np.unpackbits(self.bits, count=self.numel, bitorder="little")
        return torch.from_numpy(flat.view(np.bool_)).reshape(self.shape)

    def invert(self) -> Bitmap:
        """Return the complement, spare bits still zero."""
        flipped = ~self.bits
        if self.numel % 8:
            flipped[-1] &= (1 << self.numel % 8) - 1
        return Bitmap(self.shape, flipped)

    @property
    def numel(self) -> int:
        """Number of coordinates, chosen or not."""
        return int(np.prod(self.shape, dtype=np.int64))

    @cached_property
    def count(self) -> int:
        """Number of chosen coordinates."""
        return int(_ONES[self.bits].sum(dtype=np.int64))


_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)
