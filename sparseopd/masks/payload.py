"""A bitmap as it lies in a file: coded, with a checksum, and checked before and after it is decoded."""

from __future__ import annotations

import numpy as np
import xxhash

from sparseopd.masks.bitmap import Bitmap, numel_of
from sparseopd.masks.coding import HEAD, blocks_of, cut, decode, encode, longest

LARGEST = 1 << 33
"""Coordinates one tensor may have: more than any model's, few enough to be counted in memory."""


def pack(bitmap: Bitmap) -> tuple[np.ndarray, str]:
    """Return the payload, uint8, and its checksum."""
    payload = encode(bitmap.bits, bitmap.numel)
    return payload, checksum(bitmap.shape, payload)


def unpack(shape: tuple[int, ...], count: int, expected: str, payload: np.ndarray) -> Bitmap:
    """Return the bitmap of a payload. Raises `ValueError` where it is not what the header says."""
    if checksum(shape, payload) != expected:
        raise ValueError("it does not match its checksum")
    bitmap = Bitmap(shape, decode(payload, numel_of(shape)))
    if bitmap.count != count:
        raise ValueError(f"it has {bitmap.count} coordinates and should have {count}")
    return bitmap


def stretches(
    shape: tuple[int, ...], count: int, expected: str, payload: np.ndarray, size: int
) -> list[tuple[int, int, np.ndarray]]:
    """Return the payload in stretches, as `coding.cut`.

    Raises `ValueError` where it is not what the header says.
    """
    if checksum(shape, payload) != expected:
        raise ValueError("it does not match its checksum")
    parts = list(cut(payload, numel_of(shape), size))
    found = sum(chosen for _, chosen, _ in parts)
    if found != count:
        raise ValueError(f"it has {found} coordinates and should have {count}")
    return parts


def is_plausible(shape: tuple[int, ...], count: int, size: int) -> bool:
    """Whether a payload of `size` bytes can hold such a mask; asked before anything is allocated."""
    numel = numel_of(shape)
    fits = numel <= LARGEST and count <= numel
    return fits and HEAD.size * blocks_of(numel) <= size <= longest(numel)


def checksum(shape: tuple[int, ...], payload: np.ndarray) -> str:
    """Return the XXH3-64 of shape and payload, in hex."""
    content = xxhash.xxh3_64(str(tuple(shape)).encode())
    content.update(payload.data)
    return content.hexdigest()
